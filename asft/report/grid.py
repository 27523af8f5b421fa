"""Arranges cells in the rows and columns of a table, one group of seeds per place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from asft.report.records import AxisValue, Cell, CellRecord, Column, MissingCell, TableSpec

ALL_COLUMNS = "all"


@dataclass(frozen=True)
class Group:
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


class Grid:
    """The cells of one table by row and column.

    A cell whose ``axis`` lacks the column axis holds for every column; its row is said to span the columns.

    Raises:
        ValueError: a cell whose row or column the table does not have, two cells for one place and seed, or a
            row with cells both for single columns and for all of them.
    """

    def __init__(self, spec: TableSpec, cells: Iterable[Cell]) -> None:
        self.spec = spec
        self.cells = tuple(cells)
        places: dict[tuple[str, AxisValue | None], dict[int, Cell]] = defaultdict(dict)
        for cell in self.cells:
            seeds = places[self.row(cell), self._column(cell)]
            if cell.seed in seeds:
                raise ValueError(
                    f"{spec.name}: cells {seeds[cell.seed].key} and {cell.key} are both {cell.method} at "
                    f"{cell.axis} with seed {cell.seed}; the table has one place for them"
                )
            seeds[cell.seed] = cell
        self._groups = {place: _group(seeds) for place, seeds in places.items()}
        for row in self.spec.rows:
            own = [column.label for column in spec.columns if (row, column.value) in self._groups]
            if own and self.spans(row):
                raise ValueError(f"{spec.name}: row {row} has cells for all columns and for {own}")

    def spans(self, row: str) -> bool:
        """Whether the row's one group holds for every column."""
        return (row, None) in self._groups

    def at(self, row: str, column: Column) -> Group:
        """The group at a place; empty where nothing is known about it."""
        return self._groups.get((row, None)) or self._groups.get((row, column.value)) or Group()

    @property
    def records(self) -> tuple[CellRecord, ...]:
        """Every finished cell, row by row, column by column, seed by seed."""
        groups = [
            self.at(row, column)
            for row in self.spec.rows
            for column in (self.spec.columns[:1] if self.spans(row) else self.spec.columns)
        ]
        return tuple(record for group in groups for record in group.records)

    def column_label(self, cell: Cell) -> str:
        """The heading above a cell, ``ALL_COLUMNS`` where it holds for every column."""
        value = self._column(cell)
        return next((column.label for column in self.spec.columns if column.value == value), ALL_COLUMNS)

    def row(self, cell: Cell) -> str:
        """The table row of a cell."""
        by_method = self.spec.row_axis == "method" or self.spec.row_axis not in cell.axis
        row = cell.method if by_method else str(cell.axis[self.spec.row_axis])
        if row not in self.spec.rows:
            raise ValueError(f"{self.spec.name}: row {row!r} of cell {cell.key}; allowed: {list(self.spec.rows)}")
        return row

    def _column(self, cell: Cell) -> AxisValue | None:
        value = cell.axis.get(self.spec.column_axis)
        allowed = [column.value for column in self.spec.columns]
        if value is not None and value not in allowed:
            raise ValueError(
                f"{self.spec.name}: {self.spec.column_axis}={value!r} of cell {cell.key}; allowed: {allowed}"
            )
        return value


def _group(seeds: dict[int, Cell]) -> Group:
    ordered = [seeds[seed] for seed in sorted(seeds)]
    return Group(
        records=tuple(cell for cell in ordered if isinstance(cell, CellRecord)),
        missing=tuple(cell for cell in ordered if isinstance(cell, MissingCell)),
    )
