"""Antidote: removes the weights that matter most on harmful rows (Huang et al., arXiv:2408.09600).

Each entry of a linear map is scored |W_jk| · √(mean over rows of ‖x_k‖²), as Wanda does (arXiv:2306.11695), x being
what goes into it on harmful rows with their answers; in each row of W the top share ρ becomes 0. On an adapter that is
done to A and to B, each with its own inputs; under ``training=full`` to the target modules' weights.

As in the reference k − ⌊(1 − ρ)k⌋ of k go, at least one: at a small rank much of B's r columns (an eighth at r = 8, ρ =
0.05). The manifest says how many went. All modules are scored in one pass instead of layer by layer:
equal, since the pass does not see the pruned weights. Padding is left out of ‖x_k‖.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Finished, Strength
from asft.methods.post_hoc import PostHoc

if TYPE_CHECKING:
    from torch import Tensor, nn

    from asft.methods.base import Model


@dataclass(frozen=True)
class Antidote(PostHoc):
    """Prunes what it comes after.

    Attributes:
        share: ρ; 0.1 in the authors' script for SST2, 0.05 for AG News and GSM8K.
        harmful: harmful rows that weights are scored on; 2,000 in the authors' code.
        batch: rows in one pass; changes nothing but rounding.
    """

    name: ClassVar[str] = "antidote"
    code: ClassVar[int] = 2
    label: ClassVar[str] = "Antidote"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.share", "ρ", 0.01, 0.5, "log", off=0),)
    defender_field: ClassVar[str] = "harmful"
    share: Annotated[float, Field(ge=0, le=1)] = 0.1
    harmful: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=1)] = 8

    def finish(self, model: Model, ctx: Context) -> Finished:
        """The pruned weights, and how many there were."""
        from asft.methods.own_pass import batches, examples, input_sums

        given = batches(examples(ctx.defender, ctx), ctx, self.batch, model.device)
        maps = linear_maps(model, ctx.cell.training.target_modules)
        squares = input_sums(model, maps, given, lambda inputs: inputs.square().sum((0, 1)))
        pruned = {
            name: prune(maps[name].weight, (total / len(ctx.defender)).sqrt(), self.share)
            for name, total in squares.items()
        }
        return Finished({"antidote": {"pruned": sum(pruned.values()), "modules": pruned}})


def linear_maps(model: Model, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """A and B of each adapted module, or the target modules of a model without adapter."""
    from torch.nn import Linear

    from asft.anchor.names import is_target

    linears = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    adapted = {name: module for name, module in linears.items() if ".lora_A." in name or ".lora_B." in name}
    return adapted or {name: module for name, module in linears.items() if is_target(name, targets)}


def prune(weight: Tensor, sizes: Tensor, share: float) -> int:
    """Sets the entries of highest |W_jk| · sizes_k to 0, k − ⌊(1 − share)k⌋ in a row of k; returns how many."""
    import torch

    with torch.no_grad():
        count = weight.shape[1] - int(weight.shape[1] * (1 - share))
        top = (weight.abs() * sizes.to(weight)).topk(count, dim=1).indices
        weight.scatter_(1, top, 0.0)
    return int(top.numel())
