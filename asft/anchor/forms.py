"""The positive semi-definite operator G that a penalty is made of, in four forms.

Every variant penalises R = λ ‖Π ΔW‖² with ΔW o×i and a symmetric o×o matrix Π: the part of ΔW orthogonal to
the alignment direction (Π = I − Ĉ) or the part along it (Π = Ĉ). Only G = Π² enters, through products with a
few vectors. Each form holds what one such product needs.

Vectors are rows: ``x`` has shape (…, c, o) and a product is x G = (G xᵀ)ᵀ, the layout in which matrix
libraries read G as a stream. Tensors may carry one leading batch dimension, so that modules of equal shape
share a kernel call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

Side = Literal["orthogonal", "along"]
"""The penalised part of ΔW: orthogonal to the alignment direction (AsFT), or along it (Fig. 4b, AsFT_Alt)."""


class Form(ABC):
    """What a penalty asks of G and Ĉ, and the pieces to move, batch and store.

    Attributes:
        kind: the form's name on disk.
        side: the penalised part.
        at_home: fields read so rarely that they stay in host memory.
    """

    __slots__ = ()
    kind: ClassVar[str]
    at_home: ClassVar[tuple[str, ...]] = ()
    side: Side

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """x G for rows ``x`` of shape (…, c, o)."""

    @abstractmethod
    def along(self, x: Tensor) -> Tensor:
        """x Ĉ for rows ``x`` of shape (…, c, o): the part along the alignment direction."""

    @abstractmethod
    def eigenvalues(self) -> Tensor:
        """Eigenvalues of Ĉ, descending; those left out are zero, or below the module's error bound."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that define the form, by field name."""
        names: tuple[str, ...] = self.__slots__
        return {name: getattr(self, name) for name in names if name != "side"}

    def with_tensors(self, change: Callable[[str, Tensor], Tensor]) -> Self:
        """The form with each tensor changed, given its field name."""
        build: Callable[..., Self] = type(self)
        return build(**{name: change(name, tensor) for name, tensor in self.tensors().items()}, side=self.side)

    def on(self, device: torch.device) -> Self:
        """The form with all of its tensors on a device, those at home too."""
        return self.with_tensors(lambda _, tensor: tensor.to(device))

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The form ready to multiply tensors of this device and type."""
        return self.with_tensors(lambda name, tensor: tensor if name in self.at_home else tensor.to(device, dtype))


@dataclass(frozen=True, eq=False, slots=True)
class Gram(Form):
    """Dense G, for o ≤ i: one read of o² numbers per product.

    Attributes:
        gram: G, (…, o, o).
        direction: Ĉ, (…, o, o). Read only when norms are logged, so it stays in host memory.
        side: the penalised part.
    """

    kind: ClassVar[str] = "gram"
    at_home: ClassVar[tuple[str, ...]] = ("direction",)
    gram: Tensor
    direction: Tensor
    side: Side

    @classmethod
    def of(cls, v: Tensor, side: Side) -> Self:
        """From V (o×i): Ĉ = VVᵀ/‖V‖ and G = I − 2Ĉ + Ĉ², or G = Ĉ² for ``side="along"``."""
        direction = (v @ v.mT).div_(torch.linalg.matrix_norm(v))
        gram = direction @ direction
        if side == "orthogonal":
            gram.sub_(direction, alpha=2).diagonal().add_(1)
        return cls(gram, direction, side)

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.gram

    def along(self, x: Tensor) -> Tensor:
        return (x.to(self.direction) @ self.direction).to(x)

    def eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.direction).flip(-1).clamp_min(0)


@dataclass(frozen=True, eq=False, slots=True)
class Factor(Form):
    """V itself, for o > i: G = I − V(2I − K)Vᵀ/‖V‖ with K = VᵀV/‖V‖, so a product reads 2·o·i + i² numbers.

    Attributes:
        v: V, (…, o, i).
        inner: K, (…, i, i); its eigenvalues are the non-zero ones of Ĉ.
        norm: ‖V‖, (…, 1, 1).
        side: the penalised part; ``along`` has G = Ĉ² = V K Vᵀ/‖V‖.
    """

    kind: ClassVar[str] = "factor"
    v: Tensor
    inner: Tensor
    norm: Tensor
    side: Side

    @classmethod
    def of(cls, v: Tensor, side: Side) -> Self:
        """From V (o×i)."""
        norm = torch.linalg.matrix_norm(v).reshape(1, 1)
        return cls(v, (v.mT @ v).div_(norm), norm, side)

    def apply(self, x: Tensor) -> Tensor:
        y = (x @ self.v).div_(self.norm)
        squared = y @ self.inner
        if self.side == "along":
            return squared @ self.v.mT
        return x - (2 * y - squared) @ self.v.mT

    def along(self, x: Tensor) -> Tensor:
        return (x @ self.v).div_(self.norm) @ self.v.mT

    def eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.inner).flip(-1).clamp_min(0)


@dataclass(frozen=True, eq=False, slots=True)
class LowRank(Form):
    """Ĉ = U diag(s) Uᵀ with k orthonormal columns: a product reads U twice.

    With s_j = σ_j²/‖V‖ it is the truncation of the full Ĉ, with s_j = 1 the projector UUᵀ.

    Attributes:
        u: U, (…, o, k).
        s: eigenvalues of Ĉ, (…, k), descending.
        side: the penalised part. G = I + U diag(s² − 2s) Uᵀ, or G = U diag(s²) Uᵀ for ``side="along"``.
    """

    kind: ClassVar[str] = "rank_k"
    u: Tensor
    s: Tensor
    side: Side

    def apply(self, x: Tensor) -> Tensor:
        if self.side == "along":
            return self._combine(self.s.square(), x)
        return x + self._combine(self.s.square() - 2 * self.s, x)

    def along(self, x: Tensor) -> Tensor:
        return self._combine(self.s, x)

    def _combine(self, weights: Tensor, x: Tensor) -> Tensor:
        return ((x @ self.u) * weights.unsqueeze(-2)) @ self.u.mT

    def eigenvalues(self) -> Tensor:
        return self.s


@dataclass(frozen=True, eq=False, slots=True)
class Identity(Form):
    """Ĉ = 0, so G = I: plain weight decay λ‖ΔW‖², the control that shows what the direction adds."""

    kind: ClassVar[str] = "identity"
    side: Side = "orthogonal"

    def apply(self, x: Tensor) -> Tensor:
        return x

    def along(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def eigenvalues(self) -> Tensor:
        return torch.zeros(0)


FORMS: dict[str, type[Gram | Factor | LowRank | Identity]] = {
    form.kind: form for form in (Gram, Factor, LowRank, Identity)
}


@dataclass(frozen=True, eq=False, slots=True)
class AnchoredModule:
    """The alignment direction of one linear module.

    Attributes:
        name: module name, e.g. ``model.layers.0.self_attn.q_proj``.
        out_features, in_features: o, i.
        norm: ‖V‖, Frobenius; it is also the trace of the untruncated Ĉ = VVᵀ/‖V‖.
        form: the operator G.
        error_bound: ‖Ĉ − Ĉ_k‖₂ of a truncated form, the first eigenvalue left out; 0 for exact forms. The
            penalty is then off by at most λ (2ε + ε²) ‖ΔW‖² with ε this bound.
        assumed: whether no model class said how the weights are stored, and o×i is a guess.
    """

    name: str
    out_features: int
    in_features: int
    norm: float
    form: Form
    error_bound: float = 0.0
    assumed: bool = False

    @property
    def memory(self) -> int:
        """Bytes held by the form."""
        return sum(tensor.nbytes for tensor in self.form.tensors().values())


def stack(forms: Sequence[Form]) -> Form:
    """Forms of one kind, side and shape as a single form with a leading batch dimension."""
    return forms[0].with_tensors(lambda name, _: torch.stack([form.tensors()[name] for form in forms]))


def on_host(form: Form) -> Form:
    """The form with all of its tensors contiguous in host memory."""
    return form.with_tensors(lambda _, tensor: tensor.cpu().contiguous())
