"""EMA: the answers are those of a moving average of the weights (arXiv:2508.12531).

θ̄ ← μθ̄ + (1 − μ)θ after every step, from the start on; training goes on with θ, and θ̄ is what is left. On an adapter
A and B are averaged, each by itself: their product is not the average of BA, whose rank would grow with every step.
With 1/(1 − μ) steps of memory μ is to be read beside the number of steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Method, Strength

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from asft.methods.base import Model


@dataclass(frozen=True)
class EMA(Method):
    """Plain SFT whose weights are averaged.

    Attributes:
        decay: μ; 0.995, the default of a re-implementation (Lexsi-Labs/SafeTune).
    """

    name: ClassVar[str] = "ema"
    label: ClassVar[str] = "EMA"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.decay", "μ", 0.9, 0.999, "linear", off=0),)
    controls: ClassVar[tuple[str, ...]] = ("wise_ft", "sft")
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.995

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The average."""
        import torch

        from asft.methods.own_pass import OwnPass

        def average(step: int, optimizer: Any) -> None:
            with torch.no_grad():
                for mean, weight in zip(own.state.values(), own.weights, strict=True):
                    mean.lerp_(weight.to(mean.dtype), 1 - self.decay)
            own.acted += self.decay > 0

        def end() -> None:
            with torch.no_grad():
                torch._foreach_copy_(own.weights, list(own.state.values()))

        own = OwnPass(model, after=average, end=end)
        for index, weight in enumerate(own.weights):  # in float32: steps of bf16 weights would be lost in the average
            own.state[str(index)] = weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
        return [own]
