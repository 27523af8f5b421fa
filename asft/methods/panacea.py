"""Panacea: fine-tunes so that a small shift of the weights restores safety, and shifts them (NeurIPS 2025).

With f the task's loss and h the loss on harmful rows, ε = ρ ∇h(w)/(‖∇h(w)‖ + 1e-7); each step follows ∇f(w) − λ(∇h(w +
ε) − ∇h(w)), and what is left in the end is w + ε.

The authors' code (https://github.com/w-yibo/Panacea) back-propagates a name that is not defined and stops there; what
is followed is what its comments and the paper say. ε is added once, at the last weights; they are restored from a copy
after each look ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Method, Strength

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from asft.methods.base import Model


@dataclass(frozen=True)
class Panacea(Method):
    """Plain SFT with a post-training perturbation that it prepares for.

    Attributes:
        rho: ρ, the norm of the shift; 1 in the code.
        lam: λ; 0.001 in the code.
        harmful: harmful rows; 1,000 in the code.
        batch: of them at a step.
    """

    name: ClassVar[str] = "panacea"
    label: ClassVar[str] = "Panacea"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.rho", "ρ", 0.01, 10, "log", off=0),)
    defender_field: ClassVar[str] = "harmful"
    rho: Annotated[float, Field(ge=0)] = 1.0
    lam: Annotated[float, Field(ge=0)] = 0.001
    harmful: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=1)] = 8

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The term's gradient, and the shift at the end."""
        from asft.methods.own_pass import OwnPass, batches, examples

        given = batches(examples(ctx.defender, ctx), ctx, self.batch, model.device)

        def before(step: int) -> None:
            own.add_change(lambda: model(**given[step % len(given)]).loss, self.rho, self.lam)

        def end() -> None:
            own.shift(own.gradient(model(**given[0]).loss), self.rho)
            own.acted += self.rho > 0

        own = OwnPass(model, before=before, end=end)
        return [own]
