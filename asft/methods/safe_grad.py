"""SafeGrad: takes out of the task's gradient what would undo alignment (arXiv:2508.07172).

g_a = ∇ KL(π₀ ‖ π_θ) on refusals, π₀ being the model at the start. With ⟨·,·⟩ over all trainable entries at once,

    g ← g − min(0, ⟨g, g_a⟩)/(‖g_a‖² + 1e-12) · g_a + ρ g_a

No code of the authors is public; from what a re-implementation does (https://github.com/Lexsi-Labs/SafeTune) this
differs so: KL is a mean over the answers' tokens, not a sum over prompt and padding too; surgery is done once per
optimiser step on the whole gradient, not on each micro-batch's partial sum; an error in the extra pass is an error. π₀
is computed once, for the same batches that come back, so that g_a is exactly 0 at the start and the first step is
SFT's. Under Adam what is guaranteed holds for the gradient, not for the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Method, Strength
from asft.methods.data_mixing import safety_rows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

    from asft.methods.base import Model


@dataclass(frozen=True)
class SafeGrad(Method):
    """Gradient surgery against an alignment gradient.

    Attributes:
        rho: ρ; 1 in the paper.
        safe: refusals to draw on; the paper says that 20 suffice.
        batch: of them at a step.
    """

    name: ClassVar[str] = "safe_grad"
    label: ClassVar[str] = "SafeGrad"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.rho", "ρ", 0.1, 100, "log"),)
    controls: ClassVar[tuple[str, ...]] = ("safeinstr", "sft")  # refusals simply mixed in
    safety_field: ClassVar[str] = "safe"
    rho: Annotated[float, Field(ge=0)] = 1.0
    safe: Annotated[int, Field(ge=1)] = 20
    batch: Annotated[int, Field(ge=1)] = 8

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The surgery."""
        from asft.methods.own_pass import OwnPass, answer_logits, batches, evaluating, examples

        rows = examples(safety_rows(ctx, self.safe), ctx)
        given = batches(rows, ctx, self.batch, model.device)
        with evaluating(model):
            start = [answer_logits(model, batch).detach().softmax(-1).cpu() for batch in given]

        def before(step: int) -> None:
            turn = step % len(given)
            logits = answer_logits(model, given[turn])
            aligned = own.gradient(divergence(logits, start[turn].to(logits.device)))
            own.add(aligned, self.rho + surgery(own.task_gradient(), aligned))

        own = OwnPass(model, before=before)
        return [own]


def divergence(logits: Tensor, start: Tensor) -> Tensor:
    """What has the gradient of the mean over tokens of KL(start ‖ softmax(logits)).

    That gradient is (softmax(logits) − start)/tokens, exactly 0 where the two are equal; automatic differentiation of
    the logarithms would leave their rounding.
    """
    return ((logits.softmax(-1) - start).detach() * logits).sum() / len(logits)


def surgery(task: Sequence[Tensor], aligned: Sequence[Tensor]) -> float:
    """The multiple of the alignment gradient that is added to the task's so that the two no longer conflict."""
    from asft.methods.own_pass import stacked

    inner = stacked([(one * other).sum() for one, other in zip(task, aligned, strict=True)]).sum().item()
    size = stacked([one.square().sum() for one in aligned]).sum().item()
    return -min(0.0, inner) / (size + 1e-12)
