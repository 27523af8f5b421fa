"""Alignment-stage defences: the base model is aligned anew on refusals, and the user's fine-tune starts there.

The aligned checkpoint is a stage of its own that cells share: an adapter (or full weights) trained from the base model
and merged into it. The user's fine-tune then is plain SFT with a new adapter, as the authors have it for most
baselines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import Side
from asft.methods.base import Context, FineTune, Method, Start
from asft.methods.data_mixing import safety_rows
from asft.methods.defender_only import defender_tune

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

    from asft.config import Settings
    from asft.data.rows import Row
    from asft.methods.base import Model
    from asft.models.pair import Pair


@dataclass(frozen=True)
class Hardened(Method):
    """Aligned anew by SFT on refusals alone; what derives from it says what else its alignment stage does.

    Attributes:
        safe: refusals to align on; 5,000 in Booster's repository, as its lr and epochs are.
        lr, epochs, epoch_decay: of the alignment stage, its learning rate constant there; all else is the cell's
            ``training``.
    """

    name: ClassVar[str] = "hardened"
    label: ClassVar[str] = "aligned anew"
    safe: Annotated[int, Field(ge=1)] = 5000
    lr: Annotated[float, Field(gt=0)] = 5e-4
    epochs: Annotated[int, Field(ge=1)] = 20
    epoch_decay: Annotated[float, Field(gt=0, le=1)] = 1.0

    def aligning(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The alignment stage's callbacks."""
        return []

    def start(self) -> Start:
        """The checkpoint that the alignment stage leaves."""
        return AlignedAnew(self)


@dataclass(frozen=True)
class AlignedAnew(Start):
    """The base model, aligned on refusals.

    Attributes:
        by: the defence that says how.
    """

    name: ClassVar[str] = "aligned_anew"
    side: ClassVar[Side] = "base"
    by: Hardened

    def requires(self, cell: Settings) -> dict[str, FineTune]:
        """The alignment stage's fine-tune."""
        own = {name: getattr(self.by, name) for name in ("lr", "epochs", "epoch_decay")}
        training = dataclasses.replace(cell.training, **own)
        return {"alignment": dataclasses.replace(defender_tune(Aligning(self.by), cell), training=training)}

    def make(self, pair: Pair, folder: Path, device: torch.device, required: Mapping[str, Path]) -> dict[str, Any]:
        """Merges it into the base model."""
        whole = dataclasses.replace(pair, quantization=None)
        whole.finetuned(required["alignment"], self.side, device).save_pretrained(folder)
        return {"by": self.by.name}


@dataclass(frozen=True)
class Aligning(Method):
    """The alignment stage: from the base model, on refusals alone."""

    name: ClassVar[str] = "aligning"
    by: Hardened

    def acts(self) -> bool:
        """As the defence does."""
        return self.by.acts()

    def safety_rows(self, cell: Settings) -> int:
        """``safe``."""
        return self.by.safe

    def defender_rows(self, cell: Settings) -> int:
        """As many as the defence asks for."""
        return self.by.defender_rows(cell)

    def start(self) -> Side:
        """The base side."""
        return "base"

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """Refusals."""
        return safety_rows(ctx, self.by.safe)

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The defence's."""
        return self.by.aligning(model, ctx)
