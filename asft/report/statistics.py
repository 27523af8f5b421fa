"""Intervals of a score and tests of a difference, for scores in percent over fixed sets of prompts.

One seed: the Wilson interval of a proportion, or a bootstrap over test rows where the task is graded.
Several seeds: Student's t over the seeds' scores, which holds what differs between trainings.
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
from asft.report.grid import ALL_COLUMNS, Grid
from asft.report.records import LOWER_IS_BETTER, CellRecord

ALPHA = 0.05
# The smallest bootstrap p-value is 2 / (RESAMPLES + 1), which Holm's correction passes up to 500 comparisons.
RESAMPLES = 20_000
BOOTSTRAP_SEED = 0

Pairs = Sequence[tuple[CellRecord, CellRecord]]


@dataclass(frozen=True)
class Summary:
    """One metric of one place of a table over its seeds, in percent.

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


@dataclass(frozen=True)
class Difference:
    """One tested comparison of a table: ``method`` against ``reference`` in one column.

    ``p_holm`` is the p-value after Holm's correction over every comparison of the table.
    """

    metric: str
    column: str
    method: str
    reference: str
    result: PairedTest
    p_holm: float

    @property
    def holds(self) -> bool:
        """Whether the difference is significant at 5% after the correction."""
        return self.p_holm < ALPHA

    @property
    def better(self) -> bool:
        """Whether the method is on the good side of the reference."""
        return (self.result.difference < 0) == LOWER_IS_BETTER[self.metric]


def student_t(scores: Sequence[float]) -> Interval:
    """Student's t interval of the mean of at least two seeds' scores, cut to 0–100 percent."""
    values = np.asarray(scores, dtype=np.float64)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(max(0.0, values.mean() - half), min(100.0, values.mean() + half), "Student t over seeds")


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


def summarise(records: Sequence[CellRecord], metric: str) -> Summary:
    """Mean, range and 95% interval of one metric over the seeds of one place.

    Where several seeds agree to the last digit the t interval has no width although the prompts are a sample;
    the first seed's own interval stands in for it.
    """
    assert records, "a place without records has no summary"
    scores = [record.hs if metric == "HS" else record.fa for record in records]
    if len(scores) > 1 and len(set(scores)) > 1:
        interval: Interval | None = student_t(scores)
    else:
        interval = _interval_of_one(records[0], metric)
        if interval and len(scores) > 1:
            interval = replace(interval, kind=f"{interval.kind} of one seed (all seeds equal)")
    return Summary(
        mean=float(np.mean(scores)),
        minimum=min(scores),
        maximum=max(scores),
        interval=interval,
        n=records[0].hs_total if metric == "HS" else records[0].fa_total,
        seeds=len(scores),
    )


def _interval_of_one(record: CellRecord, metric: str) -> Interval | None:
    if metric == "HS":
        return wilson(record.hs_flagged, record.hs_total)
    if record.fa_correct is not None:
        return wilson(record.fa_correct, record.fa_total)
    if not record.task_verdicts:
        return None
    means = bootstrap_means(np.array([list(record.task_verdicts.values())], dtype=np.float64))
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


def verdicts(record: CellRecord, metric: str) -> Mapping[str, float]:
    """Prompt or row id to its score, 0 to 1."""
    return record.harmful_verdicts if metric == "HS" else record.task_verdicts


def paired_test(pairs: Pairs, metric: str) -> PairedTest | None:
    """Tests first − second over ``pairs`` of records, one pair per seed, on the prompts all of them share.

    None where there are no pairs or they share no prompt.
    """
    tables = [(verdicts(first, metric), verdicts(second, metric)) for first, second in pairs]
    if not tables:
        return None
    shared = sorted(set.intersection(*(first.keys() & second.keys() for first, second in tables)))
    if not shared:
        return None
    scores = np.array(
        [[[table[key] for key in shared] for table in both] for both in tables], dtype=np.float64
    )  # [seeds, 2, prompts]
    differences = scores[:, 0] - scores[:, 1]
    if len(tables) == 1 and np.isin(scores, (0.0, 1.0)).all():
        first, second = (dict(zip(shared, row.astype(bool).tolist(), strict=True)) for row in scores[0])
        p_value, test = mcnemar(first, second), "McNemar exact"
    else:
        p_value, test = bootstrap_p_value(differences), "paired bootstrap"
    return PairedTest(100 * float(differences.mean()), p_value, len(shared), len(tables), test)


def pair_by_seed(first: Sequence[CellRecord], second: Sequence[CellRecord]) -> Pairs:
    """Pairs of records that share a seed."""
    by_seed = {record.seed: record for record in second}
    return [(record, by_seed[record.seed]) for record in first if record.seed in by_seed]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = np.argsort(p_values)
    corrected = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = running
    return corrected


def compare(grid: Grid) -> tuple[Difference, ...]:
    """Every row against each row of ``spec.compare_to``, per column and metric, corrected over the table.

    The untouched models are no rows to compare. Two rows that both span the columns are compared once.
    """
    spec = grid.spec
    rows = [name for name in spec.methods if not (name in spec.controls and grid.spans(name))]
    references = [name for name in spec.compare_to if name in rows]
    # An earlier reference has already been tested against a later one.
    contests = [
        (name, reference)
        for position, reference in enumerate(references)
        for name in rows
        if name not in references[: position + 1]
    ]
    tested: list[tuple[str, str, str, str, PairedTest]] = []
    for metric in spec.metrics:
        for name, reference in contests:
            once = grid.spans(name) and grid.spans(reference)
            for column in spec.columns[:1] if once else spec.columns:
                pairs = pair_by_seed(grid.at(name, column).records, grid.at(reference, column).records)
                result = paired_test(pairs, metric)
                if result is not None:
                    tested.append((metric, ALL_COLUMNS if once else column.label, name, reference, result))
    corrected = holm([result.p_value for *_, result in tested])
    return tuple(Difference(*item, p_holm=p) for item, p in zip(tested, corrected, strict=True))


def differences_that_hold(grid: Grid) -> tuple[Difference, ...]:
    """The comparisons of :func:`compare` that stay significant at 5% after Holm's correction."""
    return tuple(difference for difference in compare(grid) if difference.holds)
