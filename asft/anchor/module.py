"""One module's entry in an anchor."""

from __future__ import annotations

from dataclasses import dataclass

from asft.anchor.forms import Form


@dataclass(frozen=True, eq=False, slots=True)
class AnchoredModule:
    """The alignment direction of one linear module.

    Attributes:
        name: module name, e.g. ``model.layers.0.self_attn.q_proj``.
        out_features: o.
        in_features: i.
        norm: ‖V‖, Frobenius; it is also the trace of the untruncated Ĉ = VVᵀ/‖V‖.
        form: the operator G.
        error_bound: ‖Ĉ − Ĉ_k‖₂ of a truncated form, the first eigenvalue left out; 0 for exact forms. The
            penalty is then off by at most λ (2ε + ε²) ‖ΔW‖² with ε this bound.
    """

    name: str
    out_features: int
    in_features: int
    norm: float
    form: Form
    error_bound: float = 0.0

    @property
    def memory(self) -> int:
        """Bytes held by the form."""
        return sum(tensor.nbytes for tensor in self.form.tensors().values())
