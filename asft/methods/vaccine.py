"""Vaccine: aligns under the worst small drift of the attention outputs (arXiv:2402.01109).

With e_l the gradient of the batch's loss at the output of attention module l, each output is shifted by ρ e_l/(‖e‖ +
1e-7), the norm taken over all modules, and the loss there is what is trained.

e comes from a pass of its own, on the same batch and without dropout, so that the pass that is trained draws the same
dropout as SFT; the reference draws it anew. It is e of each micro-batch, by ordinary forward hooks on every module
whose class is named as attention; the reference lists classes and uses hooks that torch has deprecated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Strength
from asft.methods.hardened import Hardened

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerCallback

    from asft.methods.base import Model


@dataclass(frozen=True)
class Vaccine(Hardened):
    """Plain SFT from a base model that Vaccine has aligned.

    Attributes:
        rho: ρ; 2 in the README's example, 5 in Booster's repository.
    """

    name: ClassVar[str] = "vaccine"
    label: ClassVar[str] = "Vaccine"
    controls: ClassVar[tuple[str, ...]] = ("hardened", "sft")
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.rho", "ρ", 0.1, 10, "log", off=0),)
    rho: Annotated[float, Field(ge=0)] = 2.0

    def aligning(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """Hooks that shift the attention outputs; they go when training is over."""
        import torch

        from asft.methods.own_pass import OwnPass, evaluating, norm

        attention = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
        seen: dict[nn.Module, Tensor] = {}
        shifts: dict[nn.Module, Tensor] = {}
        looking = False

        def attend(module: nn.Module, given: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            if looking:
                seen[module] = states
            if looking or module not in shifts:
                return output
            states = states + shifts[module]
            return (states, *output[1:]) if isinstance(output, tuple) else states

        def look(module: nn.Module, given: Any, arguments: dict[str, Any]) -> None:
            nonlocal looking
            if looking or not module.training:
                return
            looking = True
            shifts.clear()
            with evaluating(model):
                loss = model(*given, **arguments).loss
            slopes = torch.autograd.grad(loss, [seen[part] for part in attention])
            scale = self.rho / (norm(slopes).item() + 1e-7)
            shifts.update({part: scale * slope for part, slope in zip(attention, slopes, strict=True)})
            own.acted += scale > 0
            looking = False

        def end() -> None:
            for handle in handles:
                handle.remove()

        own = OwnPass(model, end=end)
        handles = [module.register_forward_hook(attend) for module in attention]
        handles.append(model.register_forward_pre_hook(look, with_kwargs=True))
        return [own]
