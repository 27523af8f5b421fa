"""SafeMERGE: merges a safe adapter into those modules whose update points away from alignment (arXiv:2503.17239).

Per module ρ = cos(ĈBA, BA), Safe LoRA's score. Where ρ < τ, s·BA becomes (1 − w)·s·BA + w·s'·B'A', the safe adapter
(B', A') being trained on refusals alone; other modules keep their update.

The authors merge by PEFT's ``linear``, which takes √((1 − w)s)·(B, A) + √(ws')·(B', A') factor by factor and so adds
√((1 − w)wss')(BA' + B'A), which no update holds and which changes when (B, A) is written as (BR, R⁻¹A): that is
``merge=peft``. The default merges the products, which needs an adapter of rank 2r. Modules are matched by name; the
reference matches by position. ρ is rounded to five digits before it is compared, as in the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, FineTune, Finished, Strength
from asft.methods.defender_only import DefenderOnly, defender_tune
from asft.methods.post_hoc import PostHoc

if TYPE_CHECKING:
    from asft.config import Settings
    from asft.methods.base import Model


@dataclass(frozen=True)
class SafeMerge(PostHoc):
    """Merges a safe adapter into part of the one that it comes after.

    Attributes:
        threshold: τ; 0.35 in the authors' code. At -1 no module is merged.
        weight: w, the safe adapter's share; 0.2 in the code's comments.
        merge: ``delta`` merges updates, ``peft`` factors.
        safe: refusals that the safe adapter is trained on, with the cell's own training settings; 100 to 2,500 in the
            paper.
    """

    name: ClassVar[str] = "safe_merge"
    label: ClassVar[str] = "SafeMERGE"
    needs_training: ClassVar[str] = "lora"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.threshold", "τ", -1, 1, "linear", off=-1),)
    controls: ClassVar[tuple[str, ...]] = ("wise_ft", "safeinstr")  # refusals simply mixed in
    threshold: Annotated[float, Field(ge=-1, le=1.1)] = 0.35
    weight: Annotated[float, Field(gt=0, le=1)] = 0.2
    merge: Literal["delta", "peft"] = "delta"
    safe: Annotated[int, Field(ge=1)] = 100

    def requires(self, cell: Settings) -> dict[str, FineTune]:
        """The other method's weights, and the safe adapter."""
        return {**super().requires(cell), "safe": defender_tune(DefenderOnly("safety", self.safe), cell)}

    def finish(self, model: Model, ctx: Context) -> Finished:
        """The merged adapter, and each module's ρ."""
        from asft.anchor.binding import lora_factors
        from asft.anchor.projection import Update, project
        from asft.anchor.saved_adapter import read_adapter
        from asft.methods.adapters import by_factor, by_update, merged, with_factors

        found = {factor.name: factor for factor in lora_factors(model)}
        saved = read_adapter(ctx.required["safe"])
        updates = {name: Update(factor.a.detach(), factor.b.detach()) for name, factor in found.items()}
        _, report = project(updates, ctx.pair.base, ctx.pair.aligned, threshold=-1.0)
        scores = {module.name: module.cosine for module in report.modules}
        chosen = {name for name, score in scores.items() if score is not None and score < self.threshold}
        told = {"safe_merge": {"cosines": scores, "merged": sorted(chosen)}}
        if not chosen:
            return Finished(told)

        def shares(name: str) -> tuple[float, float]:
            weight = self.weight if name in chosen else 0.0
            return 1 - weight, weight

        scales = {name: factor.scaling for name, factor in found.items()}
        merge = by_update if self.merge == "delta" else by_factor
        return Finished(told, with_factors(model, merged(updates, scales, saved, shares, merge)))


@dataclass(frozen=True)
class SafeMergePEFT(SafeMerge):
    """SafeMERGE as its authors merge: the factors, whose cross terms belong to no update."""

    name: ClassVar[str] = "safe_merge_peft"
    label: ClassVar[str] = "SafeMERGE, of factors"
    merge: Literal["delta", "peft"] = "peft"
