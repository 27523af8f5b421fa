"""RESTA: adds a safety vector to fine-tuned weights (Bhardwaj et al., arXiv:2402.11746).

W ← W_ft + γδ, δ = W_aligned − W_harmful, W_harmful being the aligned model fine-tuned on harmful rows. On adapters s·BA
becomes s·BA − γs'B'A', of rank 2r.

With ``drop`` DARE comes first (arXiv:2311.03099): entries of the fine-tune's change are dropped at random and the rest
divided by 1 − drop. On an adapter that is done to A and to B, as PEFT does it: the product's mean is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, FineTune, Finished, Strength
from asft.methods.defender_only import DefenderOnly, defender_tune
from asft.methods.post_hoc import PostHoc

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from asft.config import Settings
    from asft.methods.base import Model


@dataclass(frozen=True)
class Resta(PostHoc):
    """Takes a harmful fine-tune's change away from the weights that it comes after.

    Attributes:
        gamma: γ; 1 adds the vector as it is.
        drop: DARE's share of dropped entries; 0 is RESTA without it.
        harmful: rows of the harmful fine-tune, with the cell's own training settings; none is in the attack.
    """

    name: ClassVar[str] = "resta"
    label: ClassVar[str] = "RESTA"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.gamma", "γ", 0.1, 2, "linear", off=0),)
    defender_field: ClassVar[str] = "harmful"
    gamma: Annotated[float, Field(ge=0)] = 1.0
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    harmful: Annotated[int, Field(ge=1)] = 100

    def requires(self, cell: Settings) -> dict[str, FineTune]:
        """The other method's weights, and the harmful fine-tune's."""
        return {**super().requires(cell), "harmful": defender_tune(DefenderOnly("harmful", self.harmful), cell)}

    def finish(self, model: Model, ctx: Context) -> Finished:
        """The weights with the vector added."""
        import torch
        from peft import PeftModel

        from asft.anchor.binding import lora_factors
        from asft.anchor.saved_adapter import read_adapter
        from asft.methods.adapters import merged, with_factors
        from asft.models.pair import load_like

        random = torch.Generator().manual_seed(ctx.cell.seed)
        if isinstance(model, PeftModel):
            factors = lora_factors(model)
            pairs = {
                one.name: (dare(one.a.detach(), self.drop, random), dare(one.b.detach(), self.drop, random))
                for one in factors
            }
            scales, harmful = {one.name: one.scaling for one in factors}, read_adapter(ctx.required["harmful"])
            new = merged(pairs, scales, harmful, lambda _: (1.0, -self.gamma))
            return Finished(model=with_factors(model, new) if self.gamma or self.drop else None)
        folders = (ctx.start, ctx.pair.aligned, ctx.required["harmful"])
        others = [load_like(model, folder).parameters() for folder in folders]
        with torch.no_grad():
            for weight, start, aligned, harmful in zip(model.parameters(), *others, strict=True):
                if self.drop:
                    weight.copy_(start + dare(weight - start, self.drop, random))
                weight.add_(aligned - harmful, alpha=self.gamma)
        return Finished()


def dare(change: Tensor, drop: float, random: torch.Generator) -> Tensor:
    """Each entry with probability 1 − drop, divided by it; else 0."""
    import torch

    kept = torch.rand(change.shape, generator=random).to(change.device) >= drop if drop else True
    return change * kept / (1 - drop)
