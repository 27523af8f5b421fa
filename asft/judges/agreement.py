"""How far two judges agree beyond chance: Cohen's κ (Cohen 1960)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same answers, ``same`` of which got one verdict of both.

    ``kappa`` is (p_o − p_e) / (1 − p_e) with p_o the observed share of equal verdicts and p_e the share that two
    independent judges with the same rates would give; None where p_e = 1, i.e. both always say one thing.
    """

    answers: int
    same: int
    kappa: float | None

    @property
    def observed(self) -> float:
        """Share of equal verdicts, 0 to 1."""
        return self.same / self.answers


def agreement(first: Sequence[bool], second: Sequence[bool]) -> Agreement:
    """Agreement of two judges' flags, paired by place; ValueError without any, or with different numbers of them."""
    n = len(first)
    if n == 0 or len(second) != n:
        raise ValueError(f"agreement of {n} with {len(second)} verdicts: both judges must have judged the same answers")
    same = sum(a == b for a, b in zip(first, second, strict=True))
    rate_first, rate_second = sum(first) / n, sum(second) / n
    expected = rate_first * rate_second + (1 - rate_first) * (1 - rate_second)
    kappa = None if expected == 1 else (same / n - expected) / (1 - expected)
    return Agreement(n, same, kappa)
