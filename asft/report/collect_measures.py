"""From a sweep's cells to a table of measured values."""

from __future__ import annotations

import json

from asft.cells.cell import CellConfig
from asft.cells.compose import Sweep, SweepCell
from asft.cells.keys import plan, store_kind
from asft.config import ConfigError, ExperimentConfig
from asft.report.collect import (
    absence,
    check_paper_table,
    column_free,
    columns_of,
    experiment_of,
    measure_differences,
    number,
)
from asft.report.measure_table import MeasureRecord, MeasureSpec, MeasureTable, MissingMeasure
from asft.report.records import Column
from asft.store.entries import DETAILS, Store
from asft.store.provenance import library_versions


def measures_in(sweep: Sweep) -> bool:
    """Whether the sweep measures something else than scores.

    Raises:
        ConfigError: when only some of its cells do.
    """
    there = {item.cell.measure is not None for item in sweep.cells}
    if len(there) == 2:
        raise ConfigError("measure: some cells of this sweep measure and others score; report them apart")
    return there == {True}


def measure_table(sweep: Sweep, command: str) -> MeasureTable:
    """The table of an experiment whose cells measure.

    Raises:
        ConfigError: when its rows or columns are not axes of the sweep.
    """
    experiment = experiment_of(sweep)
    for key, axis in (("columns", experiment.columns), ("rows", experiment.rows)):
        if axis not in sweep.axes:
            raise ConfigError(f"experiment.{key}={axis}: not an axis; allowed: {', '.join(sweep.axes)}")
    check_paper_table(experiment)
    if experiment.rows == "method":
        raise ConfigError(
            "measure: this experiment's rows are methods, of which a measure knows nothing; leave measure out"
        )
    rows = sweep.axes[experiment.rows]
    spec = MeasureSpec(
        name=experiment.name,
        title=experiment.title,
        column_title=experiment.column_title,
        columns=columns_of(sweep, experiment),
        rows={row: experiment.row_labels.get(row, row) for row in rows},
        headline={row: _headline(sweep, experiment.rows, row) for row in rows},
        paper_rows=experiment.paper_rows,
        paper_table=experiment.paper_table,
        notes=(*_notes(sweep), *measure_differences(sweep)),
        command=command,
        versions=library_versions(),
    )
    return MeasureTable(spec, _cells(sweep, experiment))


def single_table(item: SweepCell, command: str) -> MeasureTable:
    """A table of one place, for a measure that no experiment lays out."""
    measure = item.cell.measure
    assert measure is not None, "only cells with a measure come here"
    spec = MeasureSpec(
        name=measure.name,
        title=f"{measure.describe()} of {item.cell.model.name}",
        column_title="model",
        columns=(Column(item.cell.model.name, item.cell.model.name),),
        rows={measure.name: measure.describe()},
        headline={measure.name: measure.headline},
        notes=(*_notes(Sweep({}, [item])), *measure_differences(Sweep({}, [item]))),
        command=command,
        versions=library_versions(),
    )
    return MeasureTable(spec, [_cell(item, measure.name, None)])


def _headline(sweep: Sweep, axis: str, row: str) -> str:
    measure = next(item.cell.measure for item in sweep.cells if item.axes[axis] == row)
    assert measure is not None, "every cell of the sweep measures"
    return measure.headline


def _cells(sweep: Sweep, experiment: ExperimentConfig) -> list[MeasureRecord | MissingMeasure]:
    """One record a place and seed; a row whose cell is the same in every column comes once, for all."""
    rows = experiment.rows
    free = column_free(sweep, lambda item: item.axes[rows], experiment.columns)
    found: dict[tuple[str, str, str | None], MeasureRecord | MissingMeasure] = {}
    for item in sweep.cells:
        row = item.axes[rows]
        column = None if row in free else item.axes[experiment.columns]
        found.setdefault((plan(item.cell).key, row, column), _cell(item, row, column))
    return list(found.values())


def _cell(item: SweepCell, row: str, column: str | None) -> MeasureRecord | MissingMeasure:
    key = plan(item.cell).key
    place = None if column is None else number(column)
    entry = Store(item.cell.outputs).find(store_kind(item.cell), key)
    if entry is None:
        return MissingMeasure(row, place, item.cell.seed, *absence(item.cell, key))
    interval = entry.result["interval"]
    return MeasureRecord(
        key=key,
        row=row,
        column=place,
        seed=item.cell.seed,
        values=entry.result["values"],
        interval=tuple(interval) if interval else None,
        details=json.loads((entry.path / DETAILS).read_text()),
        seconds=entry.seconds,
    )


def _notes(sweep: Sweep) -> list[str]:
    """How the numbers were made, over all cells, each note once."""
    return list(dict.fromkeys(note for item in sweep.cells for note in _cell_notes(item.cell)))


def _cell_notes(cell: CellConfig) -> list[str]:
    measure = cell.measure
    assert measure is not None, "only cells with a measure come here"
    settings = measure.settings()
    notes = []
    if measure.name == "cosine":
        notes.append(
            "All adapted modules are one vector; the update is sBA. The paper does not say how its random direction is "
            "drawn. Here it is BA with Gaussian factors of the fine-tune's rank; `gaussian_abs_cos` is the exact mean "
            "for a full Gaussian vector, `p_random` the add-one estimate of the share of random updates with at least "
            "that |cos|."
        )
    else:
        moved = "the adapted modules" if settings["modules"] == "targets" else "every parameter"
        scaled = "each tensor is scaled to its weight's norm" if settings["normalise"] == "layer" else "unscaled"
        notes.append(
            f"{' × '.join(measure.directions())}: the aligned model is moved in {moved}, {scaled}; HS is over "
            f"{settings['prompts']} malicious prompts. The paper states neither scale nor range."
        )
    if measure.name == "epl":
        notes.append(
            f"EPL is the contiguous safe radius: HS ≤ {settings['threshold']:g}% both ways, looked for up to |α| = "
            f"{settings['limit']:g}. `ahead` and `behind` are the two sides; the base model lies behind."
        )
    return notes
