"""AsFT on full-parameter training: R = λ Σ_l ‖Π_l (W_l − W_l(0))‖², gradient 2λ G ΔW (our reading)."""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from asft.anchor.anchor import Anchor
from asft.anchor.architecture import linear_modules
from asft.anchor.binding import check_shape, check_whole, unwrap
from asft.anchor.penalty import Norms, accumulation_dtype, grad_of


class FullPenalty:
    """The penalty bound to a model's anchored linear weights, with W(0) copied now.

    The model is at the aligned weights, and may be wrapped by DDP or torch.compile. The copy has the weights' own
    type; differences and products are float32 (float64 for float64 weights). Nothing passes through autograd.

    Raises:
        ValueError: the model holds adapters, lacks an anchored module or has it sharded or in another shape, or all of
            them are frozen.
    """

    def __init__(self, anchor: Anchor, model: nn.Module) -> None:
        model = unwrap(model)
        adapter = next((name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)), None)
        if adapter is not None:
            raise ValueError(f"{type(model).__name__} holds adapters, first at {adapter!r}: use AsFTCallback.")
        found = {anchor[name].name: name for name in linear_modules(model) if name in anchor}
        missing = [name for name in anchor if name not in found]
        if missing:
            raise ValueError(
                f"{type(model).__name__} lacks {len(missing)} of {len(anchor)} anchored modules, first "
                f"{missing[0]!r}: build the anchor from checkpoints of this model."
            )
        self._terms = [_Term(anchor, name, model.get_submodule(name)) for name in found.values()]
        if not any(term.trained for term in self._terms):
            raise ValueError(
                f"All {len(anchor)} anchored modules are frozen (requires_grad=False): choose other targets."
            )
        self.names = tuple(anchor)

    @torch.no_grad()
    def add_gradients(self, lam: float) -> None:
        """Add 2λ G ΔW to the ``.grad`` of every covered weight that requires a gradient now."""
        for term in self._terms:
            if term.trained:
                term.add_gradient(lam)

    @torch.no_grad()
    def norms(self) -> Norms:
        """R/λ and the norms of ΔW and its two parts, over all covered modules."""
        return Norms.of([term.squares() for term in self._terms])


class _Term:
    """One weight, its value W(0) at the start and its form; differences are i×o, rows as forms want them."""

    def __init__(self, anchor: Anchor, name: str, module: nn.Module) -> None:
        weight, self._transposed = module.get_parameter("weight"), isinstance(module, Conv1D)
        check_whole(name, weight)
        o, i = reversed(weight.shape) if self._transposed else weight.shape
        check_shape(anchor, name, (o, i))
        self._weight, self._start = weight, weight.detach().clone()
        self._dtype = accumulation_dtype(weight.dtype)
        self._form = anchor[name].form.to(weight.device, self._dtype)

    @property
    def trained(self) -> bool:
        return self._weight.requires_grad

    def _change(self) -> Tensor:
        change = self._weight.to(self._dtype) - self._start.to(self._dtype)
        return change if self._transposed else change.T

    def add_gradient(self, lam: float) -> None:
        gradient = self._form.apply(self._change())
        grad_of(self._weight).add_(gradient if self._transposed else gradient.T, alpha=2 * lam)

    def squares(self) -> Tensor:
        """R/λ, ‖ΔW‖², ‖ĈΔW‖² and ‖(I−Ĉ)ΔW‖², float64 on the CPU, shape (4,)."""
        change = self._change()
        along = self._form.along(change)
        penalty = (change * self._form.apply(change)).sum()
        values = [penalty, change.square().sum(), along.square().sum(), (change - along).square().sum()]
        return torch.stack(values).double().cpu()
