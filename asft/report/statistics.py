"""Intervals of a score and tests of a difference, over fixed sets of prompts.

One seed: the Wilson interval of a proportion, a bootstrap over test rows where the task is graded, or what the metric
itself knows. Several seeds: Student's t over the seeds' scores, which holds what differs between trainings.
Two methods are compared on the same prompts: McNemar's exact test for one seed of yes-or-no verdicts, else a
paired bootstrap that resamples prompts and seeds. Holm's correction covers the whole table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from asft.metrics.intervals import CONFIDENCE, Interval, wilson
from asft.report.records import CellRecord, MetricValue

ALPHA = 0.05
# The smallest bootstrap p-value is 2 / (RESAMPLES + 1), which Holm's correction passes up to 500 comparisons.
RESAMPLES = 20_000
BOOTSTRAP_SEED = 0

Rows = Mapping[str, float]
Pairs = Sequence[tuple[Rows, Rows]]


@dataclass(frozen=True)
class Summary:
    """One metric of one place of a table over its seeds.

    ``interval`` is None where there is nothing to make one from (a graded task without row scores).
    """

    mean: float
    minimum: float
    maximum: float
    interval: Interval | None
    n: int
    seeds: int


@dataclass(frozen=True)
class PairedTest:
    """The difference first − second of two methods on the same ``n`` prompts, in percentage points."""

    difference: float
    p_value: float
    n: int
    seeds: int
    test: str


def student_t(scores: Sequence[float], *, percent: bool = True) -> Interval:
    """Student's t interval of the mean of at least two seeds' scores, cut to 0–100 where they are percent."""
    values = np.asarray(scores, dtype=np.float64)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
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


def summarise(values: Sequence[MetricValue]) -> Summary:
    """Mean, range and 95% interval of one metric over the seeds of one place.

    Where several seeds agree to the last digit the t interval has no width although the prompts are a sample;
    the first seed's own interval stands in for it.
    """
    assert values, "a place without records has no summary"
    scores = [value.value for value in values]
    if len(set(scores)) > 1:
        interval: Interval | None = student_t(scores, percent=values[0].metric.unit == "%")
    else:
        interval = own_interval(values[0])
        if interval and len(scores) > 1:
            interval = replace(interval, kind=f"{interval.kind} of one seed (all seeds equal)")
    return Summary(float(np.mean(scores)), min(scores), max(scores), interval, values[0].n, len(scores))


def own_interval(value: MetricValue) -> Interval | None:
    """The interval of one cell's metric: the one it came with, Wilson's of its counts, or a bootstrap of its rows."""
    if value.interval is not None:
        return value.interval
    if value.hits is not None:
        return wilson(value.hits, value.n)
    if not value.rows:
        return None
    means = bootstrap_means(np.array([list(value.rows.values())], dtype=np.float64))
    lo, hi = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(100 * float(lo), 100 * float(hi), "bootstrap over rows")


def mcnemar(first: Mapping[str, bool], second: Mapping[str, bool]) -> float:
    """Two-sided p-value of McNemar's exact test on the prompts that both mappings hold.

    Only prompts on which the two disagree say anything: under equality each is a fair coin.
    """
    shared = first.keys() & second.keys()
    only_first = sum(first[key] and not second[key] for key in shared)
    only_second = sum(second[key] and not first[key] for key in shared)
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def bootstrap_p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided bootstrap p-value of mean zero for paired ``differences`` [seeds, items].

    Resampling S seeds gives (S − 1) / S of the variance between them, so with two or three seeds the p-value
    is somewhat too small.
    """
    means = bootstrap_means(differences)
    # One draw is added to each tail: a bootstrap of finitely many draws cannot witness p = 0.
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)) + 1
    return float(min(1.0, 2 * tail / (RESAMPLES + 1)))


def pair_by_seed(first: Sequence[CellRecord], second: Sequence[CellRecord], metric: str) -> Pairs:
    """One metric's rows of the records that share a seed and have it."""
    by_seed = {record.seed: record for record in second}
    both = [(record, by_seed[record.seed]) for record in first if record.seed in by_seed]
    return [(a.metrics[metric].rows, b.metrics[metric].rows) for a, b in both if metric in a.metrics.keys() & b.metrics]


def shared_rows(pairs: Pairs) -> list[str]:
    """The prompts that all of them hold."""
    return sorted(set.intersection(*(first.keys() & second.keys() for first, second in pairs))) if pairs else []


def paired_test(pairs: Pairs) -> PairedTest | None:
    """Tests first − second over ``pairs``, one per seed, on the prompts all of them share; None where there is none."""
    shared = shared_rows(pairs)
    if not shared:
        return None
    scores = np.array(
        [[[rows[key] for key in shared] for rows in both] for both in pairs], dtype=np.float64
    )  # [seeds, 2, prompts]
    differences = scores[:, 0] - scores[:, 1]
    if len(pairs) == 1 and np.isin(scores, (0.0, 1.0)).all():
        first, second = (dict(zip(shared, row.astype(bool).tolist(), strict=True)) for row in scores[0])
        p_value, test = mcnemar(first, second), "McNemar exact"
    else:
        p_value, test = bootstrap_p_value(differences), "paired bootstrap"
    return PairedTest(100 * float(differences.mean()), p_value, len(shared), len(pairs), test)


def paired_p_over_columns(columns: Sequence[Pairs]) -> float | None:
    """Two-sided p of a mean difference of zero over fixed columns: per prompt and seed the mean over the columns.

    None where the columns share no prompts (other test rows in each).
    """
    seeds = min(map(len, columns), default=0)
    pairs = [pair for column in columns for pair in column[:seeds]]
    shared = shared_rows(pairs)
    if not shared:
        return None
    differences = np.array([[a[key] - b[key] for key in shared] for a, b in pairs], dtype=np.float64)
    return bootstrap_p_value(differences.reshape(len(columns), seeds, len(shared)).mean(axis=0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = np.argsort(p_values)
    corrected = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = running
    return corrected
