"""R = λ Σ_l tr[(BᵀGB)(AAᵀ)] (AsFT, arXiv:2506.08473) and its gradients in closed form, added to ``.grad``.

    ∇_B R = 2λ (G B)(A Aᵀ)          ∇_A R = 2λ (Bᵀ G B) A

One product with G per module and step; nothing of size o×i exists. Modules of equal shape share kernel calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from asft.anchor.anchor import Anchor
from asft.anchor.binding import LoraFactors, lora_factors, match
from asft.anchor.products import products

Scale = Literal["raw", "effective"]
"""``raw`` penalises BA as the reference code does, ``effective`` the update s·BA that the model sees."""


@dataclass(frozen=True, slots=True)
class Norms:
    """Where the update lies, over all anchored modules (root of the sum of squares).

    Attributes:
        penalty: R / λ.
        update: ‖ΔW‖, with ΔW = BA or s·BA as the penalty's scale says.
        along: ‖Ĉ ΔW‖.
        orthogonal: ‖(I − Ĉ) ΔW‖.
    """

    penalty: float
    update: float
    along: float
    orthogonal: float

    @classmethod
    def of(cls, squares: Sequence[Tensor]) -> Norms:
        """From one row (R/λ, ‖ΔW‖², ‖ĈΔW‖², ‖(I−Ĉ)ΔW‖²) per module or group, float64 on the CPU."""
        penalty, update, along, orthogonal = torch.stack(list(squares)).sum(0).clamp_min(0).tolist()
        return cls(penalty, update**0.5, along**0.5, orthogonal**0.5)


class Penalty:
    """The penalty bound to one model's active LoRA factors.

    Sums are float32 whatever the parameters' type, float64 for float64 parameters. Parameters must not be
    replaced after binding; their values may change freely. The model may be wrapped by DDP or torch.compile;
    ``allow_partial`` accepts LoRA modules without anchor and anchored modules without LoRA.

    Raises:
        ValueError: see :func:`asft.anchor.binding.lora_factors` and :func:`asft.anchor.binding.match`.
    """

    def __init__(self, anchor: Anchor, model: nn.Module, *, scale: Scale = "raw", allow_partial: bool = False) -> None:
        if scale not in ("raw", "effective"):
            raise ValueError(f"scale={scale!r} is unknown; allowed: raw, effective.")
        factors = match(anchor, lora_factors(model), allow_partial=allow_partial)
        self.names = tuple(factor.name for factor in factors)
        self._groups = [_Group(anchor, members, scale) for members in _grouped(anchor, factors)]

    @torch.no_grad()
    def value(self) -> float:
        """R / λ at the present parameters."""
        return sum(float(group.value()) for group in self._groups)

    @torch.no_grad()
    def add_gradients(self, lam: float) -> None:
        """Add λ∇R to the ``.grad`` of every factor that requires a gradient now."""
        for group in self._groups:
            group.add_gradients(lam)

    @torch.no_grad()
    def norms(self) -> Norms:
        """R and the norms of ΔW and its two parts; costs about three penalties."""
        return Norms.of([group.squares() for group in self._groups])


def _grouped(anchor: Anchor, factors: Sequence[LoraFactors]) -> list[list[LoraFactors]]:
    """Factors that can share kernel calls: equal in shape, type, device, scaling and kind of form."""
    groups: dict[object, list[LoraFactors]] = defaultdict(list)
    for factor in factors:
        form = anchor[factor.name].form
        shapes = tuple((key, tensor.shape) for key, tensor in form.tensors().items())
        a, b = factor.a, factor.b
        traits = (a.shape, b.shape, a.dtype, a.device, factor.scaling)
        groups[form.kind, form.side, shapes, traits].append(factor)
    return list(groups.values())


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.promote_types(dtype, torch.float32)


class _Group:
    """n LoRA modules of one shape: contiguous copies of A (n, r, i) and of Bᵀ (n, r, o), and their products."""

    def __init__(self, anchor: Anchor, members: Sequence[LoraFactors], scale: Scale) -> None:
        self._a_params, self._b_params = [m.a for m in members], [m.b for m in members]
        self._weight = members[0].scaling ** 2 if scale == "effective" else 1.0
        rank, in_features = members[0].a.shape
        out_features = members[0].b.shape[0]
        like = members[0].a.new_empty(0, dtype=accumulation_dtype(members[0].a.dtype))
        self._a = like.new_empty(len(members), rank, in_features)
        self._bt = like.new_empty(len(members), rank, out_features)
        self._a_views, self._b_views = list(self._a.unbind()), list(self._bt.mT.unbind())
        forms = [anchor[member.name].form.to(like.device, like.dtype) for member in members]
        self._product, self._along = products(forms, rank)

    def _load(self) -> tuple[Tensor, Tensor]:
        torch._foreach_copy_(self._a_views, self._a_params)
        torch._foreach_copy_(self._b_views, self._b_params)
        return self._a, self._bt

    def value(self) -> Tensor:
        a, bt = self._load()
        return self._weight * _inner(bt, self._product(bt), a @ a.mT)

    def add_gradients(self, lam: float) -> None:
        a, bt = self._load()
        bt_g = self._product(bt)
        factor = 2 * lam * self._weight
        if any(param.requires_grad for param in self._b_params):
            _accumulate(self._b_params, ((a @ a.mT) @ bt_g).mT, factor)
        if any(param.requires_grad for param in self._a_params):
            _accumulate(self._a_params, (bt_g @ bt.mT) @ a, factor)

    def squares(self) -> Tensor:
        """R/λ, ‖ΔW‖², ‖ĈΔW‖² and ‖(I−Ĉ)ΔW‖², float64 on the CPU, shape (4,)."""
        a, bt = self._load()
        k = a @ a.mT
        along = self._along(bt)
        rest = bt - along
        pairs = ((bt, self._product(bt)), (bt, bt), (along, along), (rest, rest))
        return self._weight * torch.stack([_inner(x, y, k) for x, y in pairs]).double().cpu()


def _inner(x: Tensor, y: Tensor, k: Tensor) -> Tensor:
    """Σ tr(X Yᵀ K) over the batch, for rows X, Y (…, r, o) and K (…, r, r): ⟨XᵀA, YᵀA⟩ for K = AAᵀ."""
    return ((x @ y.mT) * k).sum()


def _accumulate(params: Sequence[Tensor], gradient: Tensor, factor: float) -> None:
    """Adds to the ``.grad`` of those parameters that are trained at this moment; a callback may switch them."""
    trained = [(param, block) for param, block in zip(params, gradient.unbind(), strict=True) if param.requires_grad]
    torch._foreach_add_([grad_of(param) for param, _ in trained], [block for _, block in trained], alpha=factor)


def grad_of(param: Tensor) -> Tensor:
    """Its ``.grad``, zeros where it has none yet."""
    if param.grad is None:
        param.grad = torch.zeros_like(param)
    return param.grad
