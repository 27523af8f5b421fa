"""Booster: aligns so that a step along the harmful gradient lowers the harmful loss little (arXiv:2409.01586).

On refusals with loss f, h being the loss on harmful rows with their answers: θ' = θ − α ∇h(θ)/(‖∇h(θ)‖ + 1e-7), and
each step follows ∇f(θ) + λ(∇h(θ) − ∇h(θ')), the first-order gradient of f + λ(h(θ) − h(θ')).

Both looks at h are without dropout, which the reference needs to be 0; θ is restored from a copy, since adding back
what was subtracted is not exact. The reference goes on training the same adapter; here it is merged and a new one is
trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Strength
from asft.methods.hardened import Hardened

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from asft.methods.base import Model


@dataclass(frozen=True)
class Booster(Hardened):
    """Plain SFT from a base model that Booster has aligned.

    Attributes:
        lam: λ; 5 in the authors' scripts. At 0 the alignment is plain SFT on refusals: its control.
        alpha: α, the length of the step; 0.1 in the scripts.
        harmful: harmful rows; 5,000 in the scripts, and the published numbers hang on it.
        batch: of them at a step; 10 is written into the code.
    """

    name: ClassVar[str] = "booster"
    label: ClassVar[str] = "Booster"
    controls: ClassVar[tuple[str, ...]] = ("hardened", "sft")
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.lam", "λ", 0.1, 100, "log", off=0),)
    defender_field: ClassVar[str] = "harmful"
    lam: Annotated[float, Field(ge=0)] = 5.0
    alpha: Annotated[float, Field(gt=0)] = 0.1
    harmful: Annotated[int, Field(ge=1)] = 5000
    batch: Annotated[int, Field(ge=1)] = 10

    def aligning(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The term's gradient."""
        from asft.methods.own_pass import OwnPass, batches, examples

        given = batches(examples(ctx.defender, ctx), ctx, self.batch, model.device)

        def before(step: int) -> None:
            own.add_change(lambda: model(**given[step % len(given)]).loss, -self.alpha, self.lam)

        own = OwnPass(model, before=before)
        return [own]
