"""An experiment's table as the page shows it: the report's own analysis, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asft.cells.compose import Sweep, config_dir, enumerate_cells
from asft.config import ConfigError
from asft.dashboard.measured import measured_table
from asft.report import text
from asft.report.analysis import Analysis, analyse
from asft.report.collect import experiment_of, records, table_spec
from asft.report.collect_measures import measure_table, measures_in
from asft.report.frame import Entry, long_frame
from asft.report.measure_table import MeasureTable, MissingMeasure
from asft.report.records import Cell, MissingCell
from asft.report.writers.latex import render_latex


@dataclass(frozen=True)
class Experiment:
    """An experiment's YAML with its cells; ``sweep`` is None where it cannot be enumerated, as ``problem`` says."""

    name: str
    overrides: tuple[str, ...] = ()
    sweep: Sweep | None = None
    problem: str = ""


def experiment_names() -> list[str]:
    """The experiments that the package knows, by name."""
    return sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


def enumerate_experiment(name: str, overrides: Sequence[str]) -> Experiment:
    """An experiment's cells under further overrides; one that needs other settings says so instead of ending all."""
    try:
        sweep = enumerate_cells([f"experiment={name}", *overrides], sweep=True)
        experiment_of(sweep)
    except ConfigError as error:
        return Experiment(name, tuple(overrides), problem=str(error))
    return Experiment(name, tuple(overrides), sweep)


def experiment_page(experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The experiment's line in the overview, and its table where at least one cell is finished."""
    words: dict[str, Any] = {"name": experiment.name, "title": experiment.name, "verdict": None}
    words |= {"done": 0, "failed": 0, "total": 0}
    if experiment.sweep is None:
        return {**words, "problem": experiment.problem}, None
    command = " ".join(["asft run -m", f"experiment={experiment.name}", *experiment.overrides])
    if measures_in(experiment.sweep):
        return _measured_page(words, measure_table(experiment.sweep, command))
    cells = records(experiment.sweep)
    failed = sum(isinstance(cell, MissingCell) and cell.status == "failed" for cell in cells)
    missing = sum(isinstance(cell, MissingCell) and cell.status == "missing" for cell in cells)
    done = len(cells) - failed - missing
    words |= {"done": done, "failed": failed, "total": len(cells), "title": experiment_of(experiment.sweep).title}
    if not done:
        return words, None
    analysis = analyse(table_spec(experiment.sweep, command), cells)
    return {**words, "verdict": analysis.health.verdict}, table_data(analysis, cells)


def _measured_page(words: dict[str, Any], table: MeasureTable) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The same for an experiment that measures something else than scores."""
    failed = sum(isinstance(cell, MissingMeasure) and cell.status == "failed" for cell in table.cells)
    line = {**words, "title": table.spec.title, "total": len(table.cells), "failed": failed, "done": len(table.records)}
    return line, measured_table(table) if table.records else None


def table_data(analysis: Analysis, cells: Sequence[Cell]) -> dict[str, Any]:
    """Everything the table page shows or hands out."""
    spec = analysis.spec
    return {
        "name": spec.name,
        "title": spec.title,
        "axis": spec.axis_words,
        "columns": [column.label for column in spec.columns],
        "metrics": {metric: text.metric_title(metric) for metric in spec.metrics},
        "rows": [
            {
                "label": spec.label(row),
                "control": row not in spec.candidates,
                "spans": analysis.grid.spans(row),
                "entries": {
                    metric: [_entry(entry) for entry in analysis.row_entries(metric, row)] for metric in spec.metrics
                },
            }
            for row in spec.rows
        ],
        "seeds": analysis.seeds,
        "health": {
            "verdict": analysis.health.verdict,
            "headline": analysis.health.headline,
            "why": analysis.health.why,
            "findings": [asdict(finding) for finding in analysis.health.findings],
        },
        "gaps": analysis.gaps,
        "notes": spec.notes,
        "differences": text.difference_sentences(analysis.holding, spec.label),
        "comparisons": text.holding_count(len(analysis.holding), len(analysis.comparisons)),
        "methods": [text.METHOD_OF_INTERVALS, text.METHOD_OF_TESTS],
        "command": spec.command,
        "keys": [cell.key for cell in cells if not isinstance(cell, MissingCell)],
        "csv": long_frame(analysis.entries).to_csv(index=False),
        "latex": render_latex(analysis),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    """One place of the table; ``good`` is the direction of Δ."""
    return {
        "ours": entry.ours,
        "interval": text.interval(entry),
        "how": entry.interval,
        "spread": text.spread(entry),
        "paper": entry.paper,
        "delta": entry.delta,
        "good": entry.better_than_paper,
        "best": entry.best,
        "n": entry.n,
        "seeds": entry.seeds,
        "missing": entry.seeds_missing,
        "status": entry.status,
        "reason": entry.reason,
    }
