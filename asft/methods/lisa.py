"""Lisa: bi-state optimisation with a proximal term (Huang et al., arXiv:2405.18641).

Training alternates between K_a steps on alignment rows and K_f steps on the user's rows. In each state the
loss gains (ρ/2)‖θ − θ_other‖², θ_other being the weights at which the *other* state was last left, over the
trainable parameters (with LoRA: A and B, each on its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import Side
from asft.methods.base import Context, Method, Strength
from asft.methods.data_mixing import safety_rows

if TYPE_CHECKING:
    from torch.utils.data import Sampler
    from transformers import TrainerCallback

    from asft.config import Settings
    from asft.data.rows import Row
    from asft.methods.base import Model


@dataclass(frozen=True)
class Lisa(Method):
    """Both variants' base class; the AsFT paper names two and defines neither, so the starts are inferred.

    Attributes:
        rho: ρ; 1 in Lisa's repository (0.01 in Booster's copy).
        alignment_steps: K_a, 100 in both repositories.
        finetune_steps: K_f, 900 in both.
        guide: alignment rows to draw from; 10,000 in both, here at most what the data's safety pool holds.
        warmup: share of all steps before the proximal term acts; 0.1 in the code.
    """

    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.rho", "ρ", 0.01, 100, "log", off=0),)
    controls: ClassVar[tuple[str, ...]] = ("safeinstr",)  # refusals simply mixed in
    rho: Annotated[float, Field(ge=0)] = 1.0
    alignment_steps: Annotated[int, Field(ge=1)] = 100
    finetune_steps: Annotated[int, Field(ge=1)] = 900
    guide: Annotated[int, Field(ge=1)] = 10_000
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1

    def safety_rows(self, cell: Settings) -> int:
        """One: it draws on as many as there are, up to ``guide``."""
        return 1

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """The user's rows, then the alignment rows; :meth:`order` tells them apart by position."""
        return [*rows, *safety_rows(ctx, min(self.guide, len(ctx.data.safety)))]

    def order(self, rows: Sequence[Row], ctx: Context) -> Sampler[int]:
        """Alternating batches; the user batches that alignment steps displace are never seen, as in the code."""
        from asft.data.loading import EpochOrder, FullBatches
        from asft.data.protocol import protocol_of
        from asft.methods.lisa_training import TwoStateOrder

        training, attack = ctx.cell.training, ctx.cell.attack
        user = attack.benign_count() + attack.harmful_count()
        user_order = protocol_of(ctx.cell).order(user) or EpochOrder(user, ctx.cell.seed)
        guide_order = EpochOrder(len(rows) - user, ctx.cell.seed + 1)
        per_step = training.batch_size * training.accumulation
        # A batch that is dropped is no step, and must not be counted as one.
        kept = FullBatches(user_order, training.batch_size) if protocol_of(ctx.cell).drops_last else user_order
        return TwoStateOrder(kept, guide_order, user, per_step, self.is_alignment)

    def is_alignment(self, step: int) -> bool:
        """Whether optimiser step ``step`` (from 0) is in the alignment state, which comes first."""
        return step % (self.alignment_steps + self.finetune_steps) < self.alignment_steps

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The proximal term."""
        from asft.methods.lisa_training import proximal

        return [proximal(model, self.rho, self.is_alignment, self.warmup)]


@dataclass(frozen=True)
class LisaAligned(Lisa):
    """Lisa from the aligned checkpoint."""

    name: ClassVar[str] = "lisa_aligned"
    label: ClassVar[str] = "Lisa-aligned"


@dataclass(frozen=True)
class LisaBase(Lisa):
    """Lisa from the base checkpoint, as in its own pipeline, which aligns a base model."""

    name: ClassVar[str] = "lisa_base"
    label: ClassVar[str] = "Lisa-base"

    def start(self) -> Side:
        """The base side."""
        return "base"
