"""WiSE-FT: the straight line between the fine-tuned weights and those it began from.

Wortsman et al., arXiv:2109.01903. It knows nothing of safety: the control that every post-hoc defence must beat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Finished, Strength
from asft.methods.post_hoc import PostHoc

if TYPE_CHECKING:
    from asft.methods.base import Model


@dataclass(frozen=True)
class WiSEFT(PostHoc):
    """W = (1 − a)·W_ft + a·W_start; on an adapter BA becomes (1 − a)·BA.

    Attributes:
        share: a, the start's share; 0 is the fine-tune, 1 the start. The paper recommends one half.
    """

    name: ClassVar[str] = "wise_ft"
    label: ClassVar[str] = "WiSE-FT"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.share", "a", 0, 1, "linear", off=0),)
    controls: ClassVar[tuple[str, ...]] = ("sft",)
    share: Annotated[float, Field(ge=0, le=1)] = 0.5

    def finish(self, model: Model, ctx: Context) -> Finished:
        """The weights between."""
        import torch
        from peft import PeftModel

        from asft.anchor.binding import lora_factors
        from asft.models.pair import load_like

        with torch.no_grad():
            if isinstance(model, PeftModel):
                for factors in lora_factors(model):
                    factors.b.mul_(1 - self.share)
            else:
                start = load_like(model, ctx.start)
                for weight, other in zip(model.parameters(), start.parameters(), strict=True):
                    weight.lerp_(other, self.share)
        return Finished()
