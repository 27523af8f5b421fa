"""Is AsFT more than weight decay on BA here? The eigenvalues of Ĉ answer it.

Along the j-th eigenvector of Ĉ = VVᵀ/‖V‖ AsFT penalises an update (1 − s_j)² times as much as plain decay
λ‖BA‖² does. All s_j near 0: AsFT is that decay. s_j = 1: the direction is free. s_j > 2: it is penalised
more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from torch import Tensor

from asft.anchor.anchor import Anchor
from asft.anchor.forms import AnchoredModule

KEPT = 32  # eigenvalues listed per module; the counts and sums are over all of them
NOTICEABLE, HALF = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class ModuleSpectrum:
    """The spectrum of Ĉ of one module, o×o.

    Attributes:
        norm: ‖V‖; the trace of the untruncated Ĉ.
        eigenvalues: the largest ones, descending.
        trace: tr Ĉ, the sum over the form's eigenvalues.
        entropy_rank: exp of the entropy of the normalised eigenvalues, between 1 and o.
        stable_rank: ‖Ĉ‖_F² / ‖Ĉ‖₂².
        spectral_distance: ‖I − (I − Ĉ)‖₂ = ‖Ĉ‖₂, the largest eigenvalue.
        mean_distance: ‖Ĉ‖_F / √o, the distance of I − Ĉ from I for a direction drawn at random.
        noticeable: number of eigenvalues above 0.1.
        half: number above 0.5.
        mean_decay: tr (I − Ĉ)² / o, the share of plain decay that a direction drawn at random receives.
        error_bound: bound on the eigenvalues that a truncated form leaves out; 0 for exact forms.
    """

    name: str
    out_features: int
    in_features: int
    norm: float
    eigenvalues: tuple[float, ...]
    trace: float
    entropy_rank: float
    stable_rank: float
    spectral_distance: float
    mean_distance: float
    noticeable: int
    half: int
    mean_decay: float
    error_bound: float

    @property
    def verdict(self) -> str:
        """One sentence: is AsFT more than weight decay on BA in this module?"""
        top, o = self.spectral_distance, self.out_features
        if top < NOTICEABLE:
            return (
                f"No: the largest eigenvalue is {top:.3f}, so every direction is penalised at least "
                f"{(1 - top) ** 2:.0%} as much as by weight decay."
            )
        if self.half == 0:
            return (
                f"Slightly: {self.noticeable} of {o} directions have eigenvalues above {NOTICEABLE} (largest "
                f"{top:.2f}, penalised {(1 - top) ** 2:.0%} as much as by weight decay)."
            )
        strong = ", above 2 and so penalised more" if top > 2 else ""
        return (
            f"In {self.half} of {o} directions, whose eigenvalues are above {HALF} (largest {top:.2f}{strong}); "
            f"a random direction is still penalised {self.mean_decay:.0%} as much as by weight decay."
        )


def inspect(anchor: Anchor) -> list[ModuleSpectrum]:
    """The spectrum of every module, in model order. Costs one symmetric eigenvalue problem per module."""
    return [_spectrum(module) for module in anchor.values()]


def _spectrum(module: AnchoredModule) -> ModuleSpectrum:
    s = module.form.eigenvalues().cpu().double()
    o = module.out_features
    trace, squares = float(s.sum()), float(s.square().sum())
    top = float(s.max()) if len(s) else 0.0
    return ModuleSpectrum(
        name=module.name,
        out_features=o,
        in_features=module.in_features,
        norm=module.norm,
        eigenvalues=tuple(s[:KEPT].tolist()),
        trace=trace,
        entropy_rank=_entropy_rank(s),
        stable_rank=squares / top**2 if top > 0 else 0.0,
        spectral_distance=top,
        mean_distance=math.sqrt(squares / o),
        noticeable=int((s > NOTICEABLE).sum()),
        half=int((s > HALF).sum()),
        mean_decay=(o - 2 * trace + squares) / o,
        error_bound=module.error_bound,
    )


def _entropy_rank(s: Tensor) -> float:
    positive = s[s > 0]
    if len(positive) == 0:
        return 0.0
    share = positive / positive.sum()
    return math.exp(float(-(share * share.log()).sum()))


def summary(spectra: Sequence[ModuleSpectrum]) -> str:
    """One sentence over all modules: is AsFT more than weight decay on BA for this pair?"""
    tops = [spectrum.spectral_distance for spectrum in spectra]
    decay = median(spectrum.mean_decay for spectrum in spectra)
    noticeable = sum(top > NOTICEABLE for top in tops)
    if noticeable == 0:
        return (
            f"No: the largest eigenvalue of any module is {max(tops):.3f} (median {median(tops):.3f}), so AsFT "
            "is weight decay on BA in all but name; compare with the l2 control."
        )
    free = sum(spectrum.half for spectrum in spectra)
    total = sum(spectrum.out_features for spectrum in spectra)
    return (
        f"In part: {noticeable} of {len(tops)} modules have an eigenvalue above {NOTICEABLE} (largest "
        f"{max(tops):.2f}), {free} of {total} directions one above {HALF}; elsewhere AsFT is weight "
        f"decay on BA (a random direction is penalised {decay:.0%} as much)."
    )


def as_plain(spectra: Sequence[ModuleSpectrum]) -> dict[str, Any]:
    """All spectra with their verdicts and the summary, as JSON holds them."""
    modules = [{**asdict(spectrum), "verdict": spectrum.verdict} for spectrum in spectra]
    return {"summary": summary(spectra), "modules": modules}
