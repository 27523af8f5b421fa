"""Which operator a variant penalises, made from V = W_aligned − W_base; without torch, which checks can do without.

=========  ===================================  ====================================================
variant    penalised part of ΔW                 Ĉ
=========  ===================================  ====================================================
asft       orthogonal to the alignment          VVᵀ/‖V‖, as in the authors' code (arXiv:2506.08473)
projector  orthogonal to the k leading          U_k U_kᵀ, a true projector (ours)
           directions
parallel   along the alignment                  VVᵀ/‖V‖ (the paper's Fig. 4b)
random     orthogonal to random directions      spectrum of VVᵀ/‖V‖, Haar-random directions (ours)
identity   all of it                            0: weight decay on ΔW (control)
=========  ===================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from asft.anchor.forms import Side

Variant = Literal["asft", "projector", "parallel", "random", "identity"]
FormName = Literal["auto", "gram", "factor", "rank_k"]


@dataclass(frozen=True, slots=True)
class AnchorSpec:
    """What to build out of V, apart from V itself.

    Attributes:
        variant: see the module's table.
        form: ``gram`` (dense o×o), ``factor`` (V) or ``rank_k``; ``auto`` takes for each module that of the exact
            two which holds less: ``gram`` (G and Ĉ, 2o² numbers) for o ≤ i, else ``factor`` (V and K, oi + i²).
        rank: k of ``rank_k`` and of ``projector``; None otherwise.
        seed: of ``random``; without effect on the others.
    """

    variant: Variant = "asft"
    form: FormName = "auto"
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant={self.variant!r} is unknown; allowed: {', '.join(get_args(Variant))}.")
        if self.form not in get_args(FormName):
            raise ValueError(f"form={self.form!r} is unknown; allowed: {', '.join(get_args(FormName))}.")
        if self.variant == "projector" and self.form not in ("auto", "rank_k"):
            raise ValueError(f"form={self.form!r} does not fit variant='projector', which is always rank_k.")
        if self.needs_rank and (self.rank is None or self.rank < 1):
            raise ValueError(f"rank={self.rank!r}: form='rank_k' and variant='projector' need one of at least 1.")
        if not self.needs_rank and self.rank is not None:
            raise ValueError(f"rank={self.rank!r} has no effect on form={self.form!r}; use form='rank_k'.")

    @property
    def needs_rank(self) -> bool:
        return self.variant == "projector" or (self.form == "rank_k" and self.variant != "identity")

    def check_shapes(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raise ValueError unless the rank is below the smaller side of every module; (o, i) by name."""
        for name, (o, i) in shapes.items():
            if self.rank is not None and self.rank >= min(o, i):
                raise ValueError(
                    f"rank={self.rank} is not below {min(o, i)}, the smaller side of module {name!r} "
                    f"({o}×{i}): lower rank, or use form='auto'."
                )

    @property
    def side(self) -> Side:
        return "along" if self.variant == "parallel" else "orthogonal"
