"""AsFT: LoRA updates kept near the alignment direction (arXiv:2506.08473, Eq. 4).

The loss gains R = λ Σ_l ‖(I − Ĉ_l) B_l A_l‖² over the adapted modules, Ĉ = VVᵀ/‖V‖ with V the weight
difference between the aligned and the base model, as the paper's code has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.anchor.spec import AnchorSpec, Variant
from asft.methods.base import Context, Method, Strength

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

    from asft.anchor.anchor import Anchor
    from asft.config import Settings
    from asft.methods.base import Model
    from asft.models.pair import Pair


@dataclass(frozen=True)
class AsFT(Method):
    """Penalises the part of each update that is orthogonal to the alignment direction.

    Attributes:
        lam: λ; the paper uses 1 and finds 0.1 to 10 to work. Under ``training=full`` the penalty is
            λ‖(I − Ĉ)(W − W_aligned)‖² over the target modules; the paper states no λ for it.
        scale: ``raw`` penalises BA as the paper's code does, ``effective`` the applied update sBA, s = α/r.
        form: how (I − Ĉ)² is kept; ``auto`` is dense for o ≤ i and factored otherwise, both exact.
    """

    name: ClassVar[str] = "asft"
    label: ClassVar[str] = "AsFT"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.lam", "λ", 0.01, 100, "log", off=0),)
    controls: ClassVar[tuple[str, ...]] = ("l2", "asft_random", "sft")
    variant: ClassVar[Variant] = "asft"
    lam: Annotated[float, Field(ge=0)] = 1.0
    scale: Literal["raw", "effective"] = "raw"
    form: Literal["auto", "gram", "factor", "rank_k"] = "auto"
    rank: Annotated[int, Field(ge=1)] | None = None

    def check(self, cell: Settings) -> None:
        """Refuses a form and a rank that do not fit each other, and a scale where there is none."""
        super().check(cell)
        if cell.training.name == "full" and self.scale != AsFT.scale:
            raise ValueError(
                f"method.scale={self.scale}: has no effect on training=full, which has no α/r; leave it out"
            )
        self.check_modules({}, cell)

    def check_modules(self, modules: Mapping[str, tuple[int, int]], cell: Settings) -> None:
        """Refuses a rank that a module does not have."""
        try:
            AnchorSpec(self.variant, self.form, self.rank).check_shapes(modules)
        except ValueError as error:
            raise ValueError(f"method.{error}") from None

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The penalty's gradient, added once per optimiser step."""
        from asft.anchor.callback import AsFTCallback, FullAsFTCallback

        anchor = self.anchor(ctx.pair, ctx.cell.training.target_modules, model.device, ctx.anchors)
        if ctx.cell.training.name == "full":
            return [FullAsFTCallback(anchor, self.lam)]
        return [AsFTCallback(anchor, self.lam, scale=self.scale)]

    def anchor(self, pair: Pair, targets: Sequence[str], device: torch.device, cache: Path) -> Anchor:
        """The alignment direction of the pair's target modules, built once and kept in ``cache``."""
        from asft.anchor.anchor import Anchor

        return Anchor.build(
            pair.base,
            pair.aligned,
            targets,
            variant=self.variant,
            form=self.form,
            rank=self.rank,
            device=str(device),
            cache_dir=cache,
        )
