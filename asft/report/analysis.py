"""Everything a writer needs of one table, worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asft.report.frame import Entry, table_entries
from asft.report.grid import ALL_COLUMNS, Grid
from asft.report.health import Health, check_health
from asft.report.records import AxisValue, Cell, Column, TableSpec
from asft.report.statistics import Difference, compare


@dataclass(frozen=True)
class Analysis:
    """One table with its verdict and its tested differences."""

    spec: TableSpec
    grid: Grid
    health: Health
    entries: tuple[Entry, ...]
    comparisons: tuple[Difference, ...]

    def entry(self, metric: str, row: str, column: Column) -> Entry:
        """The entry at a place; for a row that spans the columns the same one everywhere."""
        value: AxisValue = ALL_COLUMNS if self.grid.spans(row) else column.value
        return next(entry for entry in self.entries if (entry.metric, entry.row, entry.column) == (metric, row, value))

    def ours(self, metric: str, row: str, column: Column) -> float | None:
        """The score at a place; None where there is no result, or no such row in the table."""
        return self.entry(metric, row, column).ours if row in self.spec.rows else None

    def lacking(self, rows: Iterable[str], columns: Sequence[Column]) -> str:
        """Which of these rows are not in the table, or have no result in some column, in words; empty if none."""
        words = []
        for row in rows:
            empty = [column.label for column in columns if self.ours(self.spec.metrics[0], row, column) is None]
            if row not in self.spec.rows:
                words.append(f"{row} is not in this sweep")
            elif empty:
                where = "" if len(empty) == len(columns) else f" at {', '.join(empty)}"
                words.append(f"{self.spec.label(row)} has no result{where}")
        return "; ".join(words)

    def row_entries(self, metric: str, row: str) -> tuple[Entry, ...]:
        """One entry per column of a row."""
        return tuple(self.entry(metric, row, column) for column in self.spec.columns)

    @property
    def seeds(self) -> int:
        """Seeds per place of the table, the most there are anywhere."""
        return max((entry.seeds + entry.seeds_missing for entry in self.entries), default=0)

    @property
    def holding(self) -> tuple[Difference, ...]:
        """The differences that hold after the correction."""
        return tuple(difference for difference in self.comparisons if difference.holds)

    @property
    def gaps(self) -> tuple[str, ...]:
        """One line per place that lacks a result, in whole or for some seeds."""
        lines = []
        for entry in self.entries:
            if entry.status == "done" or entry.metric != self.spec.metrics[0]:
                continue
            what = (
                entry.status
                if entry.status != "partial"
                else (f"{entry.seeds} of {entry.seeds + entry.seeds_missing} seeds")
            )
            reason = f" ({entry.reason})" if entry.reason else ""
            lines.append(f"{entry.label}, {entry.column_label}: {what}{reason}")
        return tuple(lines)


def analyse(spec: TableSpec, cells: Iterable[Cell]) -> Analysis:
    """Works out entries, health and comparisons of one table."""
    grid = Grid(spec, cells)
    return Analysis(spec, grid, check_health(grid), table_entries(grid), compare(grid))
