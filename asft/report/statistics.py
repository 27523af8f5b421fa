"""Intervals of a score and tests of a difference, over fixed sets of prompts.

One seed: the interval that came with the score (Wilson's of a proportion, say), or a bootstrap over test rows where the
task is graded. Several seeds: Student's t over the seeds' scores, which holds what differs between trainings.
Two methods are compared on the same prompts: McNemar's exact test for one seed of yes-or-no verdicts, else a
paired bootstrap that resamples prompts and seeds. Holm's correction covers the whole table.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from asft.metrics.base import CONFIDENCE, Interval, wilson
from asft.report.records import MetricValue, Result

ALPHA = 0.05
# The smallest bootstrap p-value is 2 / (RESAMPLES + 1), which Holm's correction passes up to 500 comparisons.
RESAMPLES = 20_000
BOOTSTRAP_SEED = 0

Rows = Mapping[str, float]
Pairs = Sequence[tuple[Rows, Rows]]


@dataclass(frozen=True)
class PairedTest:
    """The difference first − second of two methods on the same ``n`` prompts, in percentage points."""

    difference: float
    p_value: float
    n: int
    seeds: int
    test: str


def interval_of(values: Sequence[MetricValue]) -> Interval | None:
    """The 95% interval of one metric over the seeds of one place; None where there is nothing to make one from.

    Where several seeds agree to the last digit the t interval has no width although the prompts are a sample;
    the first seed's own interval stands in for it.
    """
    scores, first = [value.value for value in values], values[0]
    if len(set(scores)) > 1:
        return student_t(scores, percent=first.metric.unit == "%")
    own = first.interval
    if own is None and first.rows:
        means = bootstrap_means(np.array([list(first.rows.values())], dtype=np.float64))
        lo, hi = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        own = Interval(100 * float(lo), 100 * float(hi), "bootstrap over rows")
    return replace(own, kind=f"{own.kind} of one seed (all seeds equal)") if own and len(scores) > 1 else own


def student_t(scores: Sequence[float], *, percent: bool = True) -> Interval:
    """Student's t interval of the mean of at least two seeds' scores, cut to 0–100 where they are percent."""
    from scipy.special import stdtrit  # slow to load, and one seed needs none

    values = np.asarray(scores, dtype=np.float64)
    half = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    lo, hi = float(values.mean() - half), float(values.mean() + half)
    return Interval(max(0.0, lo) if percent else lo, min(100.0, hi) if percent else hi, "Student t over seeds")


def bootstrap_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of ``values`` [seeds, items] with both seeds and items resampled, [RESAMPLES].

    Drawing items with replacement is drawing the counts of the distinct columns from a multinomial, which for
    verdicts has a handful of categories instead of one per prompt.
    """
    seeds, items = values.shape
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    columns, counts = np.unique(values, axis=1, return_counts=True)
    item_weights = rng.multinomial(items, counts / items, size=RESAMPLES) / items
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    return ((seed_weights @ columns) * item_weights).sum(axis=1)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test, from the prompts that only one of two methods flags.

    Only these say anything: under equality each is a fair coin.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(total, flagged) for flagged in range(fewer + 1)) / 2**total)


def bootstrap_p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided bootstrap p-value of mean zero for paired ``differences`` [seeds, items].

    Resampling S seeds gives (S − 1) / S of the variance between them, so with two or three seeds the p-value
    is somewhat too small.
    """
    means = bootstrap_means(differences)
    # One draw is added to each tail: a bootstrap of finitely many draws cannot witness p = 0.
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)) + 1
    return float(min(1.0, 2 * tail / (RESAMPLES + 1)))


def shared_seeds(first: Sequence[Result], second: Sequence[Result], metric: str) -> set[int]:
    """Seeds of which both have a result with one metric."""
    one, other = ({result.seed for result in results if metric in result.metrics} for results in (first, second))
    return one & other


def pair_by_seed(
    first: Sequence[Result], second: Sequence[Result], metric: str, seeds: Collection[int] | None = None
) -> Pairs:
    """One metric's rows of the results that share a seed and have it; of some seeds only, where these are given."""
    kept = shared_seeds(first, second, metric) if seeds is None else seeds
    one, other = ({result.seed: result for result in results} for results in (first, second))
    return [(one[seed].metrics[metric].rows, other[seed].metrics[metric].rows) for seed in sorted(kept)]


def _scores(pairs: Pairs) -> NDArray[np.float64] | None:
    """The scores [pairs, 2, prompts] on the prompts that all of them hold; None where there is none."""
    shared = sorted(set.intersection(*(first.keys() & second.keys() for first, second in pairs))) if pairs else []
    return np.array([[[rows[key] for key in shared] for rows in both] for both in pairs], float) if shared else None


def paired_test(pairs: Pairs) -> PairedTest | None:
    """Tests first − second over ``pairs``, one per seed, on the prompts all of them share; None where there is none."""
    scores = _scores(pairs)
    if scores is None:
        return None
    differences = scores[:, 0] - scores[:, 1]
    if len(pairs) == 1 and np.isin(scores, (0.0, 1.0)).all():
        p_value, test = mcnemar(int((differences > 0).sum()), int((differences < 0).sum())), "McNemar exact"
    else:
        p_value, test = bootstrap_p_value(differences), "paired bootstrap"
    return PairedTest(100 * float(differences.mean()), p_value, differences.shape[1], len(pairs), test)


def paired_p_over_columns(columns: Sequence[Pairs]) -> float | None:
    """Two-sided p of a mean difference of zero over fixed columns: per prompt and seed the mean over the columns.

    Each column has the same seeds in the same order. None where the columns share no prompts (other test rows in each).
    """
    scores = _scores([pair for column in columns for pair in column])
    if scores is None:
        return None
    differences = scores[:, 0] - scores[:, 1]
    return bootstrap_p_value(differences.reshape(len(columns), len(columns[0]), -1).mean(axis=0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = np.argsort(p_values)
    scaled = np.minimum(1.0, np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(scaled)
    return corrected.tolist()


def paired_interval(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """The 95% interval of first − second, two shares over the same answers, in percentage points.

    Newcombe's square-and-add interval (Statistics in Medicine 17:2635, 1998, method 10): it has a width also where no
    answer tells the two apart.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    p, q = 100 * first / n, 100 * second / n
    one, other = wilson(first, n), wilson(second, n)
    product = float(both * neither - only_first * only_second)
    product = max(product - n / 2, 0.0) if product > 0 else product
    spread = math.sqrt(float(first) * second * (n - first) * (n - second))
    phi = product / spread if spread else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    lo, hi = p - q - reach(p - one.lo, other.hi - q), p - q + reach(one.hi - p, q - other.lo)
    return Interval(lo, hi, "Newcombe, paired")
