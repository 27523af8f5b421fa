"""From a sweep's cells to a table: its layout, records of finished cells, and what is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from asft.cells.compose import Sweep
from asft.cells.job import CellState, Job, state_of
from asft.config import ConfigError, ExperimentConfig, passed_on
from asft.methods.post_hoc import PostHoc
from asft.metrics.base import Interval
from asft.report.analysis import Analysis
from asft.report.differences import differences
from asft.report.judge_notes import judge_notes
from asft.report.records import AxisValue, Column, Metric, MetricValue, Result, TableSpec
from asft.report.table import paper_tables
from asft.report.text import UNKNOWN
from asft.store.entries import Entry
from asft.store.errors import DamagedEntry
from asft.store.schemas import DETAILS, Details, Judged, is_number, read_document, read_rows
from asft.text import instead, without_home


def analysis_of(sweep: Sweep, command: str) -> Analysis:
    """The table that a command line names, as far as its cells are finished.

    Raises:
        ConfigError: when it names no experiment (a single cell that measures needs none), or one whose rows or columns
            are no axes of the sweep.
    """
    measuring = measures_in(sweep)
    if measuring and sweep.cells[0].experiment is None and len(sweep.cells) == 1:
        return _single(sweep, command)
    experiment = experiment_of(sweep)
    for key, axis in (("columns", experiment.columns), ("rows", experiment.rows)):
        if axis not in sweep.axes and (key, axis) != ("rows", "method"):
            raise ConfigError(f"experiment.{key}={axis}: not an axis; allowed: {', '.join(sweep.axes)}")
    if measuring and experiment.rows == "method":
        raise ConfigError(
            "measure: this experiment's rows are methods, of which a measure knows nothing; leave measure out"
        )
    return Analysis(table_spec(sweep, command), cells_of(sweep))


def experiment_of(sweep: Sweep) -> ExperimentConfig:
    """The experiment that a command line names.

    Raises:
        ConfigError: when it names none.
    """
    experiment = sweep.cells[0].experiment
    if experiment is None:
        raise ConfigError("experiment: name one, e.g. experiment=table2; a report is laid out by its YAML")
    return experiment


def measures_in(sweep: Sweep) -> bool:
    """Whether the sweep measures something else than scores.

    Raises:
        ConfigError: when only some of its cells do.
    """
    there = {item.cell.measure is not None for item in sweep.cells}
    if len(there) == 2:
        raise ConfigError("measure: some cells of this sweep measure and others score; report them apart")
    return there == {True}


def table_spec(sweep: Sweep, command: str) -> TableSpec:
    """The layout of an experiment's table, from its YAML and the sweep's axes.

    Raises:
        ConfigError: where the experiment names a table that the paper's figures do not hold.
    """
    experiment, measuring = experiment_of(sweep), measures_in(sweep)
    tables = [name for name in paper_tables() if name.startswith("table")]
    if experiment.paper_table is not None and experiment.paper_table not in tables:
        told = instead(experiment.paper_table, [*tables, "null"])
        raise ConfigError(f"experiment.paper_table={experiment.paper_table}: unknown{told}")
    row_of = _rows(experiment)
    labels = {"method": {item.cell.method.name: item.cell.method.label for item in sweep.cells}}
    names = labels.get(experiment.rows, {}) | experiment.row_labels
    rows = {row: names.get(row, row) for row in dict.fromkeys(map(row_of, sweep.cells))}
    return TableSpec(
        name=experiment.name,
        title=experiment.title,
        column_axis=experiment.columns,
        column_title=experiment.column_title or experiment.columns,
        columns=tuple(
            Column(number(value), f"{experiment.column_label}{value}", experiment.paper_columns.get(value))
            for value in sweep.axes[experiment.columns]
        ),
        rows=rows,
        controls=() if measuring else tuple(name for name in experiment.controls if name in rows),
        paper_table=experiment.paper_table,
        paper_rows=experiment.paper_rows,
        **_told(sweep, command),
    )


def cells_of(sweep: Sweep) -> list[Result]:
    """One record a distinct cell and place; a row whose cell is the same in every column comes once, for all.

    ConfigError where an axis is neither rows, columns nor seed, so that two cells have one place.
    """
    experiment = experiment_of(sweep)
    row_of = _rows(experiment)
    free = column_free(sweep, row_of, experiment.columns)
    found: dict[tuple[str, str, AxisValue | None], Job] = {}
    places: dict[tuple[str, AxisValue | None, int], Job] = {}
    for item in sweep.cells:
        row = row_of(item)
        column = None if row in free else number(item.axes[experiment.columns])
        found.setdefault((item.key, row, column), item)
        first = places.setdefault((row, column, item.cell.seed), item)
        if first.key != item.key:
            differ = [
                f"{axis}={first.axes.get(axis)} and {value}"
                for axis, value in item.axes.items()
                if first.axes.get(axis) != value
            ]
            axes = f"rows ({experiment.rows}), columns ({experiment.columns}) and seed"
            raise ConfigError(
                f"experiment={experiment.name}: {', '.join(differ)} of row {row} have one place in the table: it has "
                f"{axes}, no more; report one value at a time"
            )
    return [_cell(item, row, column) for (_, row, column), item in found.items()]


def column_free(sweep: Sweep, row_of: Callable[[Job], str], column_axis: str) -> set[str]:
    """Rows whose cell is the same in every column: the untouched models, a measure of the pair alone."""
    keys: dict[str, dict[tuple[str, ...], set[str]]] = {}  # by what else is swept
    for item in sweep.cells:
        others = tuple(value for axis, value in item.axes.items() if axis != column_axis)
        keys.setdefault(row_of(item), {}).setdefault(others, set()).add(item.key)
    columns = len(sweep.axes.get(column_axis, []))
    return {name for name, found in keys.items() if columns > 1 and all(len(same) == 1 for same in found.values())}


def read_metrics(entry: Entry, job: Job) -> dict[str, MetricValue]:
    """The metrics of a finished cell, by name: the one place that knows how the store keeps them."""
    cell = job.cell
    if cell.measure is not None:
        metric, interval = Metric(cell.measure.headline, cell.measure.quantity), entry.result["interval"]
        if metric.name not in entry.result["values"]:
            raise DamagedEntry(f"{entry.path}: has no {metric.name}")
        value = entry.result["values"][metric.name]
        return {metric.name: MetricValue(metric, value, interval=Interval(*interval) if interval else None)}
    return {name: _scored(entry, name, kept) for name, kept in entry.result["metrics"].items()}


def read_beside(job: Job) -> dict[str, MetricValue]:
    """The metrics beside a finished cell's own, as far as they are there."""
    return {name: _scored(entry, name, entry.result) for name, entry in job.beside().items()}


def _scored(entry: Entry, name: str, kept: dict[str, Any]) -> MetricValue:
    metric = Metric(name, kept["label"], kept["lower_is_better"], "%", 1, kept["about"])
    answers = read_rows(entry.path / kept["file"], Judged)
    rows = {row["id"]: float(row["credit"]) for row in answers if row["credit"] is not None}  # None: without a grade
    interval = Interval(*kept["interval"]) if kept["interval"] else None
    return MetricValue(metric, kept["value"], kept["total"], interval, rows)


def number(text: str) -> AxisValue:
    """An axis value as a number where it is one."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and "." not in text else value


def _single(sweep: Sweep, command: str) -> Analysis:
    """A table of one place, for a measure that no experiment lays out."""
    (item,) = sweep.cells
    measure, model = item.cell.measure, item.cell.model.name
    assert measure is not None, "only cells with a measure come here"
    spec = TableSpec(
        name=measure.name,
        title=f"{measure.describe()} of {model}",
        columns=(Column(model, model),),
        rows={measure.name: measure.describe()},
        column_title="model",
        controls=(),
        **_told(sweep, command),
    )
    return Analysis(spec, [_cell(item, measure.name, None)])


def _told(sweep: Sweep, command: str) -> dict[str, Any]:
    """What a table's reader is told of it; a table of measured values has no controls to be judged by."""
    told: dict[str, Any] = {"command": without_home(command)}
    measures = [item.cell.measure for item in sweep.cells if item.cell.measure is not None]
    if not measures:
        return {**told, "notes": (*differences(sweep), *judge_notes(sweep))}
    notes = dict.fromkeys([*(note for measure in measures for note in measure.notes()), *differences(sweep)])
    shown = dict.fromkeys(measure.headline for measure in measures)
    return {**told, "notes": tuple(notes), "metrics": tuple(shown), "undefended": None, "compare_to": ()}


def _rows(experiment: ExperimentConfig) -> Callable[[Job], str]:
    axis = experiment.rows
    return lambda item: item.cell.method.name if axis == "method" else item.axes[axis]


def _cell(job: Job, row: str, column: AxisValue | None) -> Result:
    state = state_of(job)
    absence = _absence(state)
    try:
        if state.entry:
            return _result(job, state.entry, row, column)
    except DamagedEntry as error:  # not to be seen at first look
        absence = "failed", str(error)
    shows = (job.cell.measure.headline,) if job.cell.measure else ()
    told = absence[0], without_home(absence[1])
    return Result(job.key, row, column, job.cell.seed, *told, awaited=shows, tuned=job.cell.method.trains)


def _result(job: Job, entry: Entry, row: str, column: AxisValue | None) -> Result:
    cell = job.cell
    metrics, stages = read_metrics(entry, job), entry.result.get("stages", {})
    train = stages.get("train", {"result": {}})
    numbers = (train["result"] | entry.result.get("values", {})).items()
    return Result(
        key=job.key,
        row=row,
        column=column,
        seed=cell.seed,
        metrics=metrics,
        beside=read_beside(job),
        seconds=entry.cost,
        peak_memory_mb=max((stage["peak_memory_mb"] for stage in stages.values()), default=None),
        trained="train" in stages and not isinstance(cell.method, PostHoc),
        tuned=cell.method.trains,
        extra={name: float(value) for name, value in numbers if is_number(value) and name not in metrics},
        details=read_document(entry.path / DETAILS, Details) if cell.measure else {},
        config=passed_on(job.plain()),
        made_with=made_of(entry),
    )


def made_of(entry: Entry) -> tuple[dict[str, str], ...]:
    """What a finished cell was made with, and each of its stages, which another machine may have made."""
    made = [entry.manifest, *(stage for stage in entry.result.get("stages", {}).values() if "versions" in stage)]
    return tuple({**one["versions"], "on": one.get("device", UNKNOWN)} for one in made)


def made_in(sweep: Sweep) -> Iterator[dict[str, str]]:
    """The same of all finished cells of a sweep."""
    for job in sweep.cells:
        if entry := job.find():
            yield from made_of(entry)


def _absence(state: CellState) -> tuple[Literal["missing", "failed"], str]:
    """Whether a cell without a result failed, and why it has none."""
    if state.standing in ("failed", "damaged"):
        return "failed", state.reason
    told = f"at work on {state.beat.where}" if state.beat else state.reason and f"interrupted: {state.reason}"
    return "missing", told
