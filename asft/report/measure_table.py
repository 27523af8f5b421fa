"""Tables of measured values (cosines, perturbation lengths, landscapes) beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from asft.metrics.intervals import CONFIDENCE
from asft.report.paper import paper_measure
from asft.report.records import AxisValue, Column

Interval = tuple[float, float, str]


@dataclass(frozen=True)
class MeasureRecord:
    """One finished measure: its numbers, the range that it knows itself, and the arrays behind them."""

    key: str
    row: str
    column: AxisValue | None
    seed: int
    values: dict[str, float]
    interval: Interval | None
    details: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class MissingMeasure:
    """A place without a result, and why."""

    row: str
    column: AxisValue | None
    seed: int
    status: Literal["missing", "failed"]
    reason: str = ""


@dataclass(frozen=True)
class MeasureSpec:
    """How a table of measured values is laid out.

    Attributes:
        rows: row name to display name, in order.
        headline: row name to the value it shows.
        paper_rows: row name to the paper's name of it.
    """

    name: str
    title: str
    column_title: str
    columns: tuple[Column, ...]
    rows: dict[str, str]
    headline: dict[str, str]
    paper_rows: dict[str, str] = field(default_factory=dict)
    paper_table: str | None = None
    notes: tuple[str, ...] = ()
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasureEntry:
    """One place of the table; ``value`` is the mean over seeds, None where nothing was measured."""

    row: str
    label: str
    column: AxisValue | None
    column_label: str
    quantity: str
    value: float | None
    lo: float | None
    hi: float | None
    interval: str
    paper: float | None
    seeds: int
    status: str


class MeasureTable:
    """The places of a table of measured values; a row without columns holds for all of them.

    Raises:
        ValueError: for two cells at one place and seed, as when another setting is swept, too.
    """

    def __init__(self, spec: MeasureSpec, cells: Iterable[MeasureRecord | MissingMeasure]) -> None:
        self.spec = spec
        self.cells = tuple(cells)
        places = [(cell.row, cell.column, cell.seed) for cell in self.cells]
        if twice := next((place for place in places if places.count(place) > 1), None):
            row, column, seed = twice
            raise ValueError(
                f"{spec.name}: two cells for row {row}, {self.column_label(column)}, seed {seed}; the table has one "
                "place for them. Sweep only its rows, its columns and seed."
            )

    @cached_property
    def records(self) -> tuple[MeasureRecord, ...]:
        """Every finished measure."""
        return tuple(cell for cell in self.cells if isinstance(cell, MeasureRecord))

    @property
    def gaps(self) -> tuple[str, ...]:
        """One line per place and seed without a result."""
        return tuple(
            f"{self.spec.rows[cell.row]}, {self.column_label(cell.column)}: {cell.status}"
            + (f" ({cell.reason})" if cell.reason else "")
            for cell in self.cells
            if isinstance(cell, MissingMeasure)
        )

    def at(self, row: str, column: Column) -> tuple[MeasureRecord, ...]:
        """The seeds of a place."""
        return tuple(record for record in self.records if record.row == row and record.column in {None, column.value})

    def column_label(self, value: AxisValue | None) -> str:
        """The heading of a column, ``all`` for a row that holds for every one."""
        return next((column.label for column in self.spec.columns if column.value == value), "all")

    @cached_property
    def entries(self) -> tuple[MeasureEntry, ...]:
        """Every place by row and column."""
        return tuple(self._entry(row, column) for row in self.spec.rows for column in self.spec.columns)

    def row_entries(self, row: str) -> tuple[MeasureEntry, ...]:
        """One entry per column of a row."""
        return tuple(entry for entry in self.entries if entry.row == row)

    def frame(self) -> pd.DataFrame:
        """One line per place: what the table shows."""
        return pd.DataFrame([asdict(entry) for entry in self.entries])

    def values_frame(self) -> pd.DataFrame:
        """One line per finished measure with all its numbers."""
        return pd.DataFrame(
            [
                {
                    "row": self.spec.rows[record.row],
                    "column": self.column_label(record.column),
                    "seed": record.seed,
                    **record.values,
                    "seconds": record.seconds,
                }
                for record in self.records
            ]
        )

    def _entry(self, row: str, column: Column) -> MeasureEntry:
        spec, records = self.spec, self.at(row, column)
        quantity = spec.headline[row]
        numbers = [record.values[quantity] for record in records]
        interval = _interval(records, numbers)
        return MeasureEntry(
            row=row,
            label=spec.rows[row],
            column=column.value,
            column_label=column.label,
            quantity=quantity,
            value=fmean(numbers) if numbers else None,
            lo=interval[0] if interval else None,
            hi=interval[1] if interval else None,
            interval=interval[2] if interval else "",
            paper=paper_measure(spec.paper_table, spec.paper_rows.get(row, row), column.paper_value),
            seeds=len(numbers),
            status="done" if numbers else self._status(row, column),
        )

    def _status(self, row: str, column: Column) -> str:
        there = {
            cell.status
            for cell in self.cells
            if isinstance(cell, MissingMeasure) and cell.row == row and cell.column in {None, column.value}
        }
        return "failed" if "failed" in there else "missing"


def number(value: float | None) -> str:
    """Three significant digits, in powers of ten where small."""
    if value is None:
        return ""
    return f"{value:.3g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"


def interval_text(entry: MeasureEntry) -> str:
    """``0.1–0.3``, or nothing."""
    return "" if entry.lo is None else f"{entry.lo:.2g}–{entry.hi:.2g}"


def _interval(records: tuple[MeasureRecord, ...], numbers: list[float]) -> Interval | None:
    """Over several seeds Student's t; for one what the measure itself knows."""
    if len(numbers) == 1:
        return records[0].interval
    if len(numbers) < 2:
        return None
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(numbers) - 1) * np.std(numbers, ddof=1) / np.sqrt(len(numbers))
    return fmean(numbers) - half, fmean(numbers) + half, "Student t over seeds"
