"""The interval around a share of flagged or correct answers."""

from __future__ import annotations

from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A 95% interval in percent, and how it was made."""

    lo: float
    hi: float
    kind: str


def wilson(successes: int, total: int) -> Interval:
    """The Wilson score interval of ``successes`` out of ``total``, in percent."""
    from scipy import stats  # half a second

    bounds = stats.binomtest(successes, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(100 * bounds.low, 100 * bounds.high, "Wilson")
