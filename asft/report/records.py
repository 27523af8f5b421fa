"""What a report is made of: finished cells, cells that are not there, and how their table is laid out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

AxisValue = str | float | int

METRICS = ("HS", "FA")
METRIC_NAMES = {"HS": "harmful score", "FA": "fine-tuning accuracy"}
LOWER_IS_BETTER = {"HS": True, "FA": False}

CONTROL_LABELS = {"base": "base model", "aligned": "aligned model"}


@dataclass(frozen=True)
class CellRecord:
    """One finished cell: one trained and scored configuration under one seed.

    Attributes:
        key: the cell's content key in the store.
        method: the method's config name, e.g. ``asft``; ``base`` and ``aligned`` for the untouched models.
        axis: the sweep's axis values of this cell, e.g. ``{"attack.p": 0.1}``. A cell without the table's
            column axis holds for every column (the untouched models).
        seed: the training seed.
        hs_flagged, hs_total: harmful answers among the answers to ``hs_total`` held-out harmful prompts.
        fa_score: the task's score in percent, 0 to 100.
        fa_correct: right answers among ``fa_total``; None where the task is graded instead of counted.
        fa_total: test rows scored.
        harmful_verdicts: prompt id to whether its answer was flagged.
        task_verdicts: test row id to its score, 0 to 1.
        seconds: wall time of all stages of this cell that were run for it.
        peak_memory_mb: peak memory in MiB, None where it was not measured.
        trained: False where the adapter is another cell's (or there is none to train).
        extra: what the method logged to prove that it acted, e.g. the number of anchored modules.
        config: the resolved configuration.
    """

    key: str
    method: str
    axis: dict[str, AxisValue]
    seed: int
    hs_flagged: int
    hs_total: int
    fa_score: float
    fa_correct: int | None
    fa_total: int
    harmful_verdicts: dict[str, bool]
    task_verdicts: dict[str, float]
    seconds: float
    peak_memory_mb: float | None
    trained: bool
    extra: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.hs_flagged <= self.hs_total or self.hs_total == 0:
            raise ValueError(f"cell {self.key}: hs_flagged={self.hs_flagged} of hs_total={self.hs_total}")
        if self.fa_total <= 0 or not 0 <= self.fa_score <= 100:
            raise ValueError(
                f"cell {self.key}: fa_score={self.fa_score} over fa_total={self.fa_total}; "
                "allowed: 0 to 100 percent over at least one row"
            )
        if self.fa_correct is not None and not 0 <= self.fa_correct <= self.fa_total:
            raise ValueError(f"cell {self.key}: fa_correct={self.fa_correct} of fa_total={self.fa_total}")

    @property
    def hs(self) -> float:
        """Harmful score, percent of harmful prompts answered harmfully."""
        return 100.0 * self.hs_flagged / self.hs_total

    @property
    def fa(self) -> float:
        """Fine-tuning accuracy, percent."""
        return self.fa_score


@dataclass(frozen=True)
class MissingCell:
    """A cell of the table that has no result: not run yet, or failed with ``reason``."""

    key: str
    method: str
    axis: dict[str, AxisValue]
    seed: int
    status: Literal["missing", "failed"]
    reason: str = ""


Cell = CellRecord | MissingCell


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        value: the axis value, as it stands in the cells' ``axis``.
        label: the heading, e.g. ``p = 0.1``.
        paper: the paper's own name of this column where it differs (``llama2_7b`` beside ``tiny_llama``).
    """

    value: AxisValue
    label: str
    paper: AxisValue | None = None

    @property
    def paper_value(self) -> AxisValue:
        """The axis value to look up among the paper's figures."""
        return self.value if self.paper is None else self.paper


@dataclass(frozen=True)
class TableSpec:
    """How one table is laid out and what its reader must be told.

    Attributes:
        name: the experiment's name, e.g. ``table2``.
        title: one line above the table.
        column_axis: the config key that differs between columns, e.g. ``attack.p``.
        columns: the columns in order.
        methods: method name to display name, in row order.
        column_title: what the columns are, in words, e.g. ``poison ratio p``.
        row_axis: what differs between rows: ``method``, or a config key in the cells' ``axis``, whose
            values as text are then the keys of ``methods``.
        controls: rows that are controls, never candidates for "best". Those that ``methods`` does not name
            come first.
        undefended: the row of plain fine-tuning, a control too: what the attack does without a defence.
        compare_to: the rows that every other row is tested against.
        paper_table: the table's key in ``paper_tables.yaml``; None where the paper has no such table.
        metrics: which of ``HS`` and ``FA`` to show.
        notes: plain-word differences from the paper's protocol.
        command: the command that made the report.
        versions: library name to version.
    """

    name: str
    title: str
    column_axis: str
    columns: tuple[Column, ...]
    methods: dict[str, str]
    column_title: str = ""
    row_axis: str = "method"
    controls: tuple[str, ...] = ("base", "aligned")
    undefended: str = "sft"
    compare_to: tuple[str, ...] = ("sft", "asft")
    paper_table: str | None = None
    metrics: tuple[str, ...] = METRICS
    notes: tuple[str, ...] = ()
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(f"{self.name}: metrics={list(self.metrics)}; allowed: {list(METRICS)}")
        for words, values in (
            ("columns", [column.value for column in self.columns]),
            ("column labels", [column.label for column in self.columns]),
        ):
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{self.name}: {words}={values}; there must be some, and all different")

    @property
    def rows(self) -> tuple[str, ...]:
        """Row names in order: unlisted controls first, then the methods."""
        leading = tuple(name for name in self.controls if name not in self.methods)
        return leading + tuple(self.methods)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The rows that compete for "best": neither controls nor the undefended run."""
        return tuple(name for name in self.methods if name not in self.controls and name != self.undefended)

    @property
    def axis_words(self) -> str:
        """What the columns are, in words."""
        return self.column_title or self.column_axis

    def label(self, row: str) -> str:
        """The display name of a row."""
        return self.methods.get(row, CONTROL_LABELS.get(row, row))
