"""A table with what its controls and tests say of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from asft.report.health import Health, check_health
from asft.report.records import Metric
from asft.report.statistics import ALPHA, PairedTest, holm, pair_by_seed, paired_test
from asft.report.table import ALL_COLUMNS, Table


@dataclass(frozen=True)
class Difference:
    """One tested comparison of a table: ``method`` against ``reference`` in one column.

    ``p_holm`` is the p-value after Holm's correction over every comparison of the table.
    """

    metric: Metric
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
        return (self.result.difference < 0) == self.metric.lower_is_better


class Analysis(Table):
    """A table, its verdict and its tested differences, each worked out once and only where it is asked for."""

    @cached_property
    def health(self) -> Health | None:
        """What the controls say; None for a table of measured values, which has none."""
        return check_health(self, self.spec.undefended) if self.spec.undefended else None

    @cached_property
    def comparisons(self) -> tuple[Difference, ...]:
        """Every row against each row of ``spec.compare_to``, per column and metric, corrected over the table.

        Neither the untouched models are compared, nor metrics without a good direction. Two rows that both span the
        columns are compared once.
        """
        spec = self.spec
        rows = [name for name in spec.rows if not self.untouched(name)]
        references = [name for name in spec.compare_to if name in rows]
        # An earlier reference has already been tested against a later one.
        contests = [
            (name, reference)
            for position, reference in enumerate(references)
            for name in rows
            if name not in references[: position + 1]
        ]
        tested: list[tuple[Metric, str, str, str, PairedTest]] = []
        for metric in (metric for metric in self.metrics.values() if metric.lower_is_better is not None):
            for name, reference in contests:
                once = self.spans(name) and self.spans(reference)
                for column in spec.columns[:1] if once else spec.columns:
                    own, theirs = (self.at(row, column).records for row in (name, reference))
                    result = paired_test(pair_by_seed(own, theirs, metric.name))
                    if result is not None:
                        tested.append((metric, ALL_COLUMNS if once else column.label, name, reference, result))
        corrected = holm([result.p_value for *_, result in tested])
        return tuple(Difference(*item, p_holm=p) for item, p in zip(tested, corrected, strict=True))

    @property
    def holding(self) -> tuple[Difference, ...]:
        """The differences that hold after the correction."""
        return tuple(difference for difference in self.comparisons if difference.holds)
