"""What a table is made of: the results of cells with their metrics, and the layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from asft.metrics.base import Interval

AxisValue = str | float | int


@dataclass(frozen=True)
class Metric:
    """What a number is. It comes with the numbers, from the cell that has them: a table knows no list of metrics.

    Attributes:
        name: how tables, CSV and the paper's figures name it, e.g. ``HS``.
        label: the same in words, e.g. ``harmful score``.
        lower_is_better: the good direction; None where neither is, so that no row is best.
        unit: ``%``, or empty. What is in percent lies between 0 and 100.
        decimals: after the point; None for three significant digits.
        about: one line for a reader who has never heard of it.
    """

    name: str
    label: str = ""
    lower_is_better: bool | None = None
    unit: str = ""
    decimals: int | None = None
    about: str = ""

    @property
    def title(self) -> str:
        """``HS, harmful score in % (lower is better)``."""
        better = {True: " (lower is better)", False: " (higher is better)", None: ""}[self.lower_is_better]
        unit = f" in {self.unit}" if self.unit else ""
        return ", ".join(part for part in (self.name, self.label) if part) + unit + better


@dataclass(frozen=True)
class MetricValue:
    """One metric of one cell.

    Attributes:
        n: prompts or test rows scored; 0 where none are counted.
        interval: the 95% interval that came with the value; None where only the rows give one.
        rows: prompt or row id to its score, 0 to 1: what methods are compared on.
    """

    metric: Metric
    value: float
    n: int = 0
    interval: Interval | None = None
    rows: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric.unit == "%" and not 0 <= self.value <= 100:
            raise ValueError(f"{self.metric.name}={self.value}; allowed: 0 to 100 percent")


@dataclass(frozen=True)
class Result:
    """One cell of a table under one seed: trained and scored, or measured; or why it has no result.

    Attributes:
        key: the cell's content key in the store.
        row: the table row, e.g. the method's name; ``base`` and ``aligned`` for the untouched models.
        column: the value of the table's column axis; None where the cell holds for every column.
        status: ``missing``: not run yet; ``failed``: as ``reason`` says.
        metrics: what a table may show, by name.
        beside: what it may show in a block of its own beside them: neither tested nor judged by the controls.
        awaited: the metrics that a cell without a result would have; empty where that is not known.
        seconds: wall time of all stages of this cell that were run for it.
        peak_memory_mb: peak memory in MiB, None where it was not measured.
        trained: False where the adapter is another cell's (or there is none to train).
        tuned: False of a model that no fine-tune has touched.
        extra: further numbers: what a method logged to prove that it acted, all that a measure found.
        details: a measure's arrays, for figures.
        config: the resolved configuration.
        made_with: of the cell and each of its stages, library name to version, and the device under ``on``.
    """

    key: str
    row: str
    column: AxisValue | None
    seed: int
    status: Literal["done", "missing", "failed"] = "done"
    reason: str = ""
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    beside: Mapping[str, MetricValue] = field(default_factory=dict)
    awaited: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_memory_mb: float | None = None
    trained: bool = False
    tuned: bool = True
    extra: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    made_with: tuple[Mapping[str, str], ...] = ()

    @property
    def shown(self) -> dict[str, MetricValue]:
        """Both."""
        return {**self.metrics, **self.beside}


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        value: the axis value, as in the cells' ``column``.
        label: the heading, e.g. ``p = 0.1``.
        paper: the paper's own name of this column where it differs (``llama2_7b`` beside ``tiny_llama``).
    """

    value: AxisValue
    label: str
    paper: AxisValue | None = None


@dataclass(frozen=True)
class TableSpec:
    """How one table is laid out and what its reader must be told.

    Attributes:
        name: the experiment's name, e.g. ``table2``.
        title: one line above the table.
        columns: the columns in order.
        rows: row name to display name, in order.
        column_axis: the config key that differs between columns, e.g. ``attack.p``.
        column_title: what the columns are, in words, e.g. ``poison ratio p``.
        controls: rows that are controls, never candidates for "best".
        undefended: the row of plain fine-tuning, a control too: what the attack does without a defence. None for a
            table of measured values, which has no controls to judge it by.
        compare_to: the rows that every other row is tested against.
        paper_table: the table's key in ``paper_tables.yaml``; None where the paper has no such table.
        paper_rows: the paper's name of a row, where it differs.
        metrics: the metrics to show; empty for all that the cells have.
        notes: plain-word differences from the paper's protocol.
        command: the command that made the report.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: dict[str, str]
    column_axis: str = ""
    column_title: str = ""
    controls: tuple[str, ...] = ("base", "aligned")
    undefended: str | None = "sft"
    compare_to: tuple[str, ...] = ("sft", "asft")
    paper_table: str | None = None
    paper_rows: dict[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""

    def __post_init__(self) -> None:
        for words, name in (("columns", "value"), ("column labels", "label")):
            values = [getattr(column, name) for column in self.columns]
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{self.name}: {words}={values}; there must be some, and all different")

    @property
    def candidates(self) -> tuple[str, ...]:
        """The rows that compete for "best": neither controls nor the undefended run."""
        return tuple(name for name in self.rows if name not in self.controls and name != self.undefended)

    def label(self, row: str) -> str:
        """The display name of a row, or its name where the table has no such row."""
        return self.rows.get(row, row)
