"""One table: cells in rows and columns, one entry a place and metric. Every writer lays it out from here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import pandas as pd

from asft.report.paper import paper_value
from asft.report.records import AxisValue, Cell, CellRecord, Column, Metric, MetricValue, MissingCell, TableSpec
from asft.report.statistics import summarise

ALL_COLUMNS = "all"


@dataclass(frozen=True)
class Place:
    """All seeds of one place of the table, in seed order."""

    records: tuple[CellRecord, ...] = ()
    missing: tuple[MissingCell, ...] = ()

    @property
    def status(self) -> str:
        """``done``, ``partial`` (some seeds have no result), ``failed`` or ``missing``."""
        if self.records:
            return "partial" if self.missing else "done"
        return "failed" if any(cell.status == "failed" for cell in self.missing) else "missing"

    @property
    def reason(self) -> str:
        """Why seeds are missing, each reason once."""
        return "; ".join(dict.fromkeys(cell.reason for cell in self.missing if cell.reason))


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
        status: ``done``, ``partial``, ``missing`` or ``failed``; ``reason`` why.
        best: the best of the rows that compete in this column; ties are all best. A row that spans the columns does
            not compete, nor does any in a metric without a good direction.
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
    def seeds_words(self) -> str:
        """``1 of 2 seeds`` where some seeds have no result, else nothing."""
        return f"{self.seeds} of {self.seeds + self.seeds_missing} seeds" if self.status == "partial" else ""

    @property
    def better_than_paper(self) -> bool | None:
        """Whether the delta is on the good side; None where there is none to speak of."""
        if self.delta is None or self.metric.lower_is_better is None or round(self.delta, 1) == 0:
            return None
        return (self.delta < 0) == self.metric.lower_is_better


@dataclass(frozen=True)
class Line:
    """One metric of one row, as tables show it: an entry per column, the same one in each where the row spans them."""

    row: str
    label: str
    control: bool
    spans: bool
    entries: tuple[Entry, ...]


class Table:
    """The cells of one table by row and column.

    A cell whose ``column`` is None holds for every column; its row is said to span the columns.

    Raises:
        ValueError: a cell whose row or column the table does not have, two cells for one place and seed, or a
            row with cells both for single columns and for all of them.
    """

    def __init__(self, spec: TableSpec, cells: Iterable[Cell]) -> None:
        self.spec = spec
        self.cells = tuple(cells)
        places: dict[tuple[str, AxisValue | None], dict[int, Cell]] = defaultdict(dict)
        columns = [column.value for column in spec.columns]
        for cell in self.cells:
            if cell.row not in spec.rows:
                raise ValueError(f"{spec.name}: row {cell.row!r} of cell {cell.key}; allowed: {list(spec.rows)}")
            if cell.column is not None and cell.column not in columns:
                raise ValueError(
                    f"{spec.name}: {spec.column_axis}={cell.column!r} of cell {cell.key}; allowed: {columns}"
                )
            seeds = places[cell.row, cell.column]
            if cell.seed in seeds:
                raise ValueError(
                    f"{spec.name}: cells {seeds[cell.seed].key} and {cell.key} are both row {cell.row}, "
                    f"{self.column_label(cell)}, seed {cell.seed}; the table has one place for them. Sweep only its "
                    "rows, its columns and seed."
                )
            seeds[cell.seed] = cell
        self._places = {place: _place(seeds) for place, seeds in places.items()}
        for row in spec.rows:
            own = [column.label for column in spec.columns if (row, column.value) in self._places]
            if own and self.spans(row):
                raise ValueError(f"{spec.name}: row {row} has cells for all columns and for {own}")

    def spans(self, row: str) -> bool:
        """Whether the row's one place holds for every column."""
        return (row, None) in self._places

    def untouched(self, row: str) -> bool:
        """Whether a row is a control that no training and no column changes."""
        return row in self.spec.controls and self.spans(row)

    def at(self, row: str, column: Column) -> Place:
        """What is known of a place, for every metric."""
        return self._places.get((row, None)) or self._places.get((row, column.value)) or Place()

    def column_label(self, cell: Cell) -> str:
        """The heading above a cell, ``ALL_COLUMNS`` where it holds for every column."""
        return next((column.label for column in self.spec.columns if column.value == cell.column), ALL_COLUMNS)

    @cached_property
    def records(self) -> tuple[CellRecord, ...]:
        """Every finished cell, row by row, column by column, seed by seed."""
        return tuple(record for row in self.spec.rows for record in self.row_records(row))

    def row_records(self, row: str) -> tuple[CellRecord, ...]:
        """The finished cells of a row, column by column, seed by seed."""
        columns = self.spec.columns[:1] if self.spans(row) else self.spec.columns
        return tuple(record for column in columns for record in self.at(row, column).records)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that the table shows, by name: those of its spec, else all that its cells have."""
        found: dict[str, Metric] = {}
        for record in self.records:
            for name, value in record.metrics.items():
                found.setdefault(name, value.metric)
        return {name: found.get(name, Metric(name)) for name in self.spec.metrics or found}

    def values(self, metric: str, row: str, column: Column) -> list[MetricValue]:
        """One metric of a place, seed by seed."""
        return [record.metrics[metric] for record in self.at(row, column).records if metric in record.metrics]

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every entry by metric, row and column; a row that spans the columns has one, unless the paper's do not."""
        found: list[Entry] = []
        for metric in self.metrics.values():
            of_metric = [
                self._entry(metric, row, column)
                for row in self._rows_of(metric.name)
                for column in self._columns_of(metric.name, row)
            ]
            found += _mark_best(of_metric, self.spec.candidates)
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

    def lines(self, metric: str) -> tuple[Line, ...]:
        """The rows of one metric's table; a row whose cells do not have the metric is left out."""
        return tuple(self.line(metric, row) for row in self._rows_of(metric))

    def line(self, metric: str, row: str) -> Line:
        """One row of one metric's table."""
        found = [self.entry(metric, row, column) for column in self.spec.columns]
        entries = tuple(entry for entry in found if entry is not None)
        assert len(entries) == len(found), f"{self.spec.name}: no {metric} in row {row}"
        return Line(row, self.spec.label(row), entries[0].control, entries[0].column == ALL_COLUMNS, entries)

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
                what = entry.seeds_words or entry.status
                why = f"{what} ({entry.reason})" if entry.reason else what
                found.setdefault(why, {})[f"{entry.label}, {entry.column_label}"] = None
        return tuple(f"{why}: {'; '.join(places)}" for why, places in found.items())

    def frame(self) -> pd.DataFrame:
        """One line per entry, one column per field of :class:`Entry`: what the CSV holds."""
        lines = [asdict(entry) | {"metric": entry.metric.name} for entry in self.entries]
        return pd.DataFrame(lines, columns=[each.name for each in fields(Entry)])

    def cells_frame(self) -> pd.DataFrame:
        """One line per finished cell with every number it has."""
        return pd.DataFrame(
            [
                {
                    "row": self.spec.label(record.row),
                    "column": self.column_label(record),
                    "seed": record.seed,
                    **{name: value.value for name, value in record.metrics.items()},
                    **record.extra,
                    "seconds": record.seconds,
                }
                for record in self.records
            ]
        )

    def _rows_of(self, metric: str) -> list[str]:
        known = {cell.row for cell in self.cells}
        speaking = {cell.row for cell in self.cells if metric in cell.metrics or not cell.metrics}
        return [row for row in self.spec.rows if row in speaking or row not in known]

    def _columns_of(self, metric: str, row: str) -> Sequence[Column]:
        if not self.spans(row) or any(self.paper(metric, row, column) is not None for column in self.spec.columns):
            return self.spec.columns
        return (Column(ALL_COLUMNS, ALL_COLUMNS),)

    def paper(self, metric: str, row: str, column: Column) -> float | None:
        """The paper's figure at a place, where it has one."""
        spec = self.spec
        return paper_value(spec.paper_table, metric, spec.paper_rows.get(row, row), column.paper_value)

    def _entry(self, metric: Metric, row: str, column: Column) -> Entry:
        spec, place, values = self.spec, self.at(row, column), self.values(metric.name, row, column)
        summary = summarise(values) if values else None
        interval = summary.interval if summary else None
        paper = self.paper(metric.name, row, column)
        return Entry(
            row=row,
            label=spec.label(row),
            control=row not in spec.candidates,
            column=column.value,
            column_label=column.label,
            metric=metric,
            ours=summary.mean if summary else None,
            lo=interval.lo if interval else None,
            hi=interval.hi if interval else None,
            interval=interval.kind if interval else "",
            minimum=summary.minimum if summary else None,
            maximum=summary.maximum if summary else None,
            paper=paper,
            delta=summary.mean - paper if summary and paper is not None else None,
            n=summary.n if summary else 0,
            seeds=len(place.records),
            seeds_missing=len(place.missing),
            status=place.status,
            reason=place.reason,
        )


def _place(seeds: dict[int, Cell]) -> Place:
    ordered = [seeds[seed] for seed in sorted(seeds)]
    return Place(
        records=tuple(cell for cell in ordered if isinstance(cell, CellRecord)),
        missing=tuple(cell for cell in ordered if isinstance(cell, MissingCell)),
    )


def _mark_best(entries: Sequence[Entry], candidates: Sequence[str]) -> list[Entry]:
    scores: dict[AxisValue, list[float]] = defaultdict(list)
    for entry in entries:
        if entry.row in candidates and entry.column != ALL_COLUMNS and entry.ours is not None:
            scores[entry.column].append(entry.ours)

    def is_best(entry: Entry) -> bool:
        if entry.row not in candidates or entry.column not in scores or entry.metric.lower_is_better is None:
            return False
        return entry.ours == (min if entry.metric.lower_is_better else max)(scores[entry.column])

    return [replace(entry, best=is_best(entry)) for entry in entries]
