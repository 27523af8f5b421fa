"""One table: results in rows and columns, one entry a place and metric. Every writer lays it out from here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from asft.report.records import AxisValue, Column, Metric, MetricValue, Result, TableSpec
from asft.report.statistics import interval_of

ALL_COLUMNS = "all"


@cache
def paper_tables() -> dict[str, Any]:
    """The paper's printed figures: ``paper_tables.yaml`` as it stands."""
    tables: dict[str, Any] = yaml.safe_load(files("asft.report").joinpath("paper_tables.yaml").read_text("utf-8"))
    return tables


def paper_value(table: str | None, metric: str, row: str, column: AxisValue) -> float | None:
    """The paper's figure for one place of one of its tables.

    None where the paper has no such table, metric, row or column: a report shows many cells that the paper has not,
    so that is no error.
    """
    entry = paper_tables().get(table) if table else None
    if not isinstance(entry, dict) or "axis" not in entry:
        return None
    columns, printed = entry["axis"]["values"], entry.get(metric, {}).get(row)
    return float(printed[columns.index(column)]) if printed and column in columns else None


def number(value: float | None, metric: Metric, digits: int = 3) -> str:
    """With the metric's decimals, or else so many significant digits, in powers of ten where small."""
    if value is None:
        return ""
    if metric.decimals is not None:
        return f"{value:.{metric.decimals}f}"
    return f"{value:.{digits}g}" if value == 0 or abs(value) >= 1e-3 or digits < 3 else f"{value:.{digits - 1}e}"


def signed(value: float) -> str:
    """A difference in percentage points with its sign, a true minus; zero is +0.0."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


@dataclass(frozen=True)
class Entry:
    """One metric at one place of the table; numbers are None where there is nothing.

    Attributes:
        row, label: the row's name and display name.
        control: whether the row is a control or the undefended run.
        column, column_label: axis value and heading; ``all`` where the row holds for every column.
        metric: what the number is.
        ours: mean over seeds; ``lo`` and ``hi`` its 95% interval, made as ``interval`` says; ``minimum`` and
            ``maximum`` the range over seeds.
        paper, delta: the paper's figure, and ours − paper.
        n: prompts or test rows scored per seed.
        seeds, seeds_missing: how many seeds have and have not a result.
        status: ``done``, ``partial`` (some seeds have no result), ``missing`` or ``failed``; ``reason`` why.
        best: the best of the rows that compete in this column; ties are all best. A row that spans the columns does
            not compete, nor does one that lacks seeds, nor any in a metric without a good direction.
    """

    row: str
    label: str
    control: bool
    column: AxisValue
    column_label: str
    metric: Metric
    ours: float | None
    lo: float | None
    hi: float | None
    interval: str
    minimum: float | None
    maximum: float | None
    paper: float | None
    delta: float | None
    n: int
    seeds: int
    seeds_missing: int
    status: str
    reason: str
    best: bool = False

    @property
    def text(self) -> str:
        """Our score, or the place's status; a dash where a finished cell lacks this metric.

        Writers add nothing to these texts but their own marks.
        """
        if self.ours is None:
            return "–" if self.status == "done" else self.status
        return number(self.ours, self.metric)

    @property
    def range_text(self) -> str:
        """The interval, ``2.2–7.2``; nothing where there is none."""
        return "" if self.lo is None else f"{number(self.lo, self.metric, 2)}–{number(self.hi, self.metric, 2)}"

    @property
    def paper_text(self) -> str:
        """The paper's figure; percentages have the two decimals they are printed with."""
        decimals = self.metric.decimals
        return number(self.paper, self.metric if decimals is None else replace(self.metric, decimals=decimals + 1))

    @property
    def delta_text(self) -> str:
        """Ours minus the paper's, told in points only."""
        return "" if self.delta is None or self.metric.decimals is None else signed(self.delta)

    @property
    def seeds_text(self) -> str:
        """``1 of 2 seeds`` where some seeds have no result, else nothing."""
        return f"{self.seeds} of {self.seeds + self.seeds_missing} seeds" if self.status == "partial" else ""

    @property
    def better_than_paper(self) -> bool | None:
        """Whether the delta is on the good side; None where there is none to speak of."""
        if self.delta is None or self.metric.lower_is_better is None or round(self.delta, 1) == 0:
            return None
        return (self.delta < 0) == self.metric.lower_is_better


class Table:
    """The cells of one table by row and column.

    A cell whose ``column`` is None holds for every column; its row is said to span the columns.

    Raises:
        ValueError: a cell whose row or column the table does not have, two cells for one place and seed, or a
            row with cells both for single columns and for all of them.
    """

    def __init__(self, spec: TableSpec, cells: Iterable[Result]) -> None:
        self.spec = spec
        self.cells = tuple(cells)
        self._places: dict[tuple[str, AxisValue | None], dict[int, Result]] = defaultdict(dict)
        columns = [column.value for column in spec.columns]
        for cell in self.cells:
            if cell.row not in spec.rows:
                raise ValueError(f"{spec.name}: row {cell.row!r} of cell {cell.key}; allowed: {list(spec.rows)}")
            if cell.column is not None and cell.column not in columns:
                raise ValueError(
                    f"{spec.name}: {spec.column_axis}={cell.column!r} of cell {cell.key}; allowed: {columns}"
                )
            seeds = self._places[cell.row, cell.column]
            if cell.seed in seeds:
                raise ValueError(
                    f"{spec.name}: cells {seeds[cell.seed].key} and {cell.key} are both row {cell.row}, "
                    f"{self.column_label(cell)}, seed {cell.seed}; the table has one place for them. Sweep only its "
                    "rows, its columns and seed."
                )
            seeds[cell.seed] = cell
        for row in spec.rows:
            own = [column.label for column in spec.columns if (row, column.value) in self._places]
            if own and self.spans(row):
                raise ValueError(f"{spec.name}: row {row} has cells for all columns and for {own}")

    def spans(self, row: str) -> bool:
        """Whether the row's one place holds for every column."""
        return (row, None) in self._places

    def untouched(self, row: str) -> bool:
        """Whether a row is a control that no training changes."""
        tuned = any(cell.tuned for cell in self.cells if cell.row == row)
        return row in self.spec.controls and (self.spans(row) or not tuned)

    def _all_at(self, row: str, column: Column) -> list[Result]:
        seeds = self._places.get((row, None)) or self._places.get((row, column.value)) or {}
        return [seeds[seed] for seed in sorted(seeds)]

    def at(self, row: str, column: Column) -> list[Result]:
        """The finished cells of a place, seed by seed."""
        return [cell for cell in self._all_at(row, column) if cell.status == "done"]

    def column_label(self, cell: Result) -> str:
        """The heading above a cell, ``ALL_COLUMNS`` where it holds for every column."""
        return next((column.label for column in self.spec.columns if column.value == cell.column), ALL_COLUMNS)

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """Every finished cell, row by row, column by column, seed by seed."""
        return tuple(result for row in self.spec.rows for result in self.row_results(row))

    def row_results(self, row: str) -> list[Result]:
        """The finished cells of a row, column by column, seed by seed."""
        columns = self.spec.columns[:1] if self.spans(row) else self.spec.columns
        return [result for column in columns for result in self.at(row, column)]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that the table shows, by name: those of its spec, else all that its cells have."""
        found = _found(result.metrics for result in self.results)
        return {name: found.get(name, Metric(name)) for name in self.spec.metrics or found}

    @cached_property
    def beside(self) -> dict[str, Metric]:
        """The metrics of the second block: beside those by which rows are compared."""
        return _found(result.beside for result in self.results)

    @property
    def shown(self) -> dict[str, Metric]:
        """Both blocks."""
        return {**self.metrics, **self.beside}

    def heading(self, metric: str) -> str:
        """What stands above one metric's table."""
        return f"{'Beside: ' * (metric in self.beside)}{self.shown[metric].title}"

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry by metric, row and column; a row that spans the columns has one, unless the paper's do not."""
        found: list[Entry] = []
        for metric in self.shown.values():
            of_metric = [
                self._entry(metric, row, column)
                for row in self._rows_of(metric.name)
                for column in self._columns_of(metric.name, row)
            ]
            found += of_metric if metric.name in self.beside else _mark_best(of_metric, self.spec.candidates)
        return tuple(found)

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, AxisValue], Entry]:
        return {(entry.metric.name, entry.row, entry.column): entry for entry in self.entries}

    def entry(self, metric: str, row: str, column: Column) -> Entry | None:
        """The entry at a place, the same everywhere for a row that spans the columns; None where there is none."""
        return self._by_place.get((metric, row, column.value)) or self._by_place.get((metric, row, ALL_COLUMNS))

    def ours(self, metric: str, row: str, column: Column) -> float | None:
        """The score at a place; None where there is no result, or no such row or metric in the table."""
        entry = self.entry(metric, row, column)
        return entry.ours if entry else None

    def lines(self, metric: str) -> list[list[Entry]]:
        """The rows of one metric's table, an entry a column, the same one in each where the row spans them.

        A row whose cells do not have the metric is left out.
        """
        places = [[self.entry(metric, row, column) for column in self.spec.columns] for row in self._rows_of(metric)]
        return [[entry for entry in line if entry is not None] for line in places]

    @property
    def seeds(self) -> int:
        """Seeds per place of the table, the most there are anywhere."""
        return max((entry.seeds + entry.seeds_missing for entry in self.entries), default=0)

    @property
    def gaps(self) -> tuple[str, ...]:
        """The places that lack a result, in whole or for some seeds, together where the reason is the same."""
        found: dict[str, dict[str, None]] = {}
        for entry in self.entries:
            if entry.status != "done":
                what = entry.seeds_text or entry.status
                why = f"{what} ({entry.reason})" if entry.reason else what
                found.setdefault(why, {})[f"{entry.label}, {entry.column_label}"] = None
        return tuple(f"{why}: {'; '.join(places)}" for why, places in found.items())

    def frame(self) -> list[dict[str, Any]]:
        """One line per entry, by the fields of :class:`Entry`: what the CSV holds."""
        return [asdict(entry) | {"metric": entry.metric.name} for entry in self.entries]

    def cells_frame(self) -> list[dict[str, Any]]:
        """One line per finished cell with every number it has."""
        return [
            {
                "row": self.spec.label(result.row),
                "column": self.column_label(result),
                "seed": result.seed,
                **{name: value.value for name, value in result.shown.items()},
                **result.extra,
                "seconds": result.seconds,
            }
            for result in self.results
        ]

    def _rows_of(self, metric: str) -> list[str]:
        if metric in self.beside:
            return list(self.spec.rows)
        known = {cell.row for cell in self.cells}
        speaking = {cell.row for cell in self.cells if metric in (cell.metrics or cell.awaited or [metric])}
        return [row for row in self.spec.rows if row in speaking or row not in known]

    def _columns_of(self, metric: str, row: str) -> Sequence[Column]:
        if not self.spans(row) or any(self.paper(metric, row, column) is not None for column in self.spec.columns):
            return self.spec.columns
        return (Column(ALL_COLUMNS, ALL_COLUMNS),)

    def paper(self, metric: str, row: str, column: Column) -> float | None:
        """The paper's figure at a place, where it has one."""
        spec, place = self.spec, column.value if column.paper is None else column.paper
        return paper_value(spec.paper_table, metric, spec.paper_rows.get(row, row), place)

    def _entry(self, metric: Metric, row: str, column: Column) -> Entry:
        spec, cells = self.spec, self._all_at(row, column)
        some = any(metric.name in cell.shown for cell in cells)
        open_cells = [cell for cell in cells if cell.status != "done" or (some and metric.name not in cell.shown)]
        values: list[MetricValue] = [cell.shown[metric.name] for cell in cells if metric.name in cell.shown]
        scores, interval = [value.value for value in values], interval_of(values) if values else None
        ours, paper = float(np.mean(scores)) if scores else None, self.paper(metric.name, row, column)
        if len(open_cells) < len(cells):
            status = "partial" if open_cells else "done"
        else:
            status = "failed" if any(cell.status == "failed" for cell in cells) else "missing"
        return Entry(
            row=row,
            label=spec.label(row),
            control=row not in spec.candidates,
            column=column.value,
            column_label=column.label,
            metric=metric,
            ours=ours,
            lo=interval.lo if interval else None,
            hi=interval.hi if interval else None,
            interval=interval.kind if interval else "",
            minimum=min(scores, default=None),
            maximum=max(scores, default=None),
            paper=paper,
            delta=ours - paper if ours is not None and paper is not None else None,
            n=values[0].n if values else 0,
            seeds=len(cells) - len(open_cells),
            seeds_missing=len(open_cells),
            status=status,
            reason="; ".join(dict.fromkeys(cell.reason for cell in open_cells if cell.reason)),
        )


def _found(scored: Iterable[Mapping[str, MetricValue]]) -> dict[str, Metric]:
    """The metrics of some cells, in the order in which they come."""
    found: dict[str, Metric] = {}
    for metrics in scored:
        for name, value in metrics.items():
            found.setdefault(name, value.metric)
    return found


def _mark_best(entries: Sequence[Entry], candidates: Sequence[str]) -> list[Entry]:
    scores: dict[AxisValue, list[float]] = defaultdict(list)

    def counts(entry: Entry) -> bool:
        """Whether it may be best: a mean over fewer seeds than the others' is no rival."""
        return entry.row in candidates and entry.column != ALL_COLUMNS and not entry.seeds_missing

    def rounded(score: float) -> float:
        return round(score, 9)  # means of the same scores in another order differ in the last digit

    for entry in entries:
        if counts(entry) and entry.ours is not None:
            scores[entry.column].append(rounded(entry.ours))

    def is_best(entry: Entry) -> bool:
        if not counts(entry) or entry.ours is None or entry.metric.lower_is_better is None:
            return False
        return rounded(entry.ours) == (min if entry.metric.lower_is_better else max)(scores[entry.column])

    return [replace(entry, best=is_best(entry)) for entry in entries]
