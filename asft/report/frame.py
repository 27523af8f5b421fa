"""A table as data: typed entries for the writers, a long and a wide pandas frame for everybody else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace

import pandas as pd

from asft.report.grid import ALL_COLUMNS, Grid
from asft.report.paper import paper_value
from asft.report.records import LOWER_IS_BETTER, AxisValue, Column
from asft.report.statistics import summarise


@dataclass(frozen=True)
class Entry:
    """One metric at one place of the table; numbers in percent, None where there is nothing.

    Attributes:
        row, label: the row's name and display name.
        control: whether the row is a control or the undefended run.
        column, column_label: axis value and heading; ``all`` where the row holds for every column.
        metric: ``HS`` or ``FA``.
        ours: mean over seeds; ``lo`` and ``hi`` its 95% interval, made as ``interval`` says; ``minimum`` and
            ``maximum`` the range over seeds.
        paper, delta: the paper's figure, and ours − paper in percentage points.
        n: prompts or test rows scored per seed.
        seeds, seeds_missing: how many seeds have and have not a result.
        status: ``done``, ``partial``, ``missing`` or ``failed``; ``reason`` why.
        best: lowest HS or highest FA among the rows that compete in this column; ties are all best. A row
            that spans the columns does not compete.
    """

    row: str
    label: str
    control: bool
    column: AxisValue
    column_label: str
    metric: str
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
    def better_than_paper(self) -> bool | None:
        """Whether the delta is on the good side; None where there is none to speak of."""
        if self.delta is None or round(self.delta, 1) == 0:
            return None
        return (self.delta < 0) == LOWER_IS_BETTER[self.metric]


def table_entries(grid: Grid) -> tuple[Entry, ...]:
    """Every entry of a table, by metric, row and column; a row that spans the columns has one per metric."""
    spec = grid.spec
    entries: list[Entry] = []
    for metric in spec.metrics:
        of_metric = [
            _entry(grid, metric, row, column)
            for row in spec.rows
            for column in (spec.columns[:1] if grid.spans(row) else spec.columns)
        ]
        entries += _mark_best(of_metric, spec.candidates)
    return tuple(entries)


def long_frame(entries: Iterable[Entry]) -> pd.DataFrame:
    """One row per cell and metric, one column per field of :class:`Entry`."""
    return pd.DataFrame([asdict(entry) for entry in entries], columns=[field.name for field in fields(Entry)])


def wide_frame(entries: Sequence[Entry], value: str = "ours") -> pd.DataFrame:
    """``value`` of each entry, rows by label and columns by (metric, heading), both in table order."""
    frame = long_frame(entries)
    wide = frame.pivot(index="label", columns=["metric", "column_label"], values=value)
    order = list(dict.fromkeys(zip(frame["metric"], frame["column_label"], strict=True)))
    return wide.reindex(index=list(dict.fromkeys(frame["label"])), columns=pd.MultiIndex.from_tuples(order))


def _entry(grid: Grid, metric: str, row: str, column: Column) -> Entry:
    spec, group, spans = grid.spec, grid.at(row, column), grid.spans(row)
    summary = summarise(group.records, metric) if group.records else None
    interval = summary.interval if summary else None
    paper = None if spans else paper_value(spec.paper_table, metric, row, column.paper_value)
    return Entry(
        row=row,
        label=spec.label(row),
        control=row not in spec.candidates,
        column=ALL_COLUMNS if spans else column.value,
        column_label=ALL_COLUMNS if spans else column.label,
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
        seeds=len(group.records),
        seeds_missing=len(group.missing),
        status=group.status,
        reason=group.reason,
    )


def _mark_best(entries: Sequence[Entry], candidates: Sequence[str]) -> list[Entry]:
    scores: dict[AxisValue, list[float]] = {}
    for entry in entries:
        if entry.row in candidates and entry.column != ALL_COLUMNS and entry.ours is not None:
            scores.setdefault(entry.column, []).append(entry.ours)

    def is_best(entry: Entry) -> bool:
        if entry.row not in candidates or entry.column not in scores:
            return False
        pick = min if LOWER_IS_BETTER[entry.metric] else max
        return entry.ours == pick(scores[entry.column])

    return [replace(entry, best=is_best(entry)) for entry in entries]
