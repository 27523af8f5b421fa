"""An experiment's table as the page shows it: the report's own analysis, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asft.cells.compose import Sweep, config_dir, enumerate_cells
from asft.config import ConfigError
from asft.report import text
from asft.report.analysis import Analysis
from asft.report.collect import analysis_of, experiment_of
from asft.report.contrast import finding
from asft.report.records import MissingCell
from asft.report.table import Entry
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
    analysis = analysis_of(experiment.sweep, command)
    statuses = [cell.status for cell in analysis.cells if isinstance(cell, MissingCell)]
    done = len(analysis.cells) - len(statuses)
    words |= {"done": done, "failed": statuses.count("failed"), "total": len(analysis.cells)}
    words["title"] = analysis.spec.title
    if not done:
        return words, None
    return {**words, "verdict": analysis.health.verdict if analysis.health else None}, table_data(analysis)


def table_data(analysis: Analysis) -> dict[str, Any]:
    """Everything the table page shows or hands out; one that measures has no controls to judge it by."""
    spec, health = analysis.spec, analysis.health
    lines = {name: {line.row: line for line in analysis.lines(name)} for name in analysis.metrics}
    return {
        "name": spec.name,
        "title": spec.title,
        "axis": spec.axis_words,
        "columns": [column.label for column in spec.columns],
        "metrics": {name: metric.title for name, metric in analysis.metrics.items()},
        "significant": health is None,
        "rows": [
            {
                "label": label,
                "control": row not in spec.candidates,
                "spans": analysis.spans(row),
                "entries": {
                    name: [_entry(entry) for entry in of[row].entries] if row in of else [NOTHING] * len(spec.columns)
                    for name, of in lines.items()
                },
            }
            for row, label in spec.rows.items()
        ],
        "seeds": analysis.seeds,
        "health": {"headline": health.headline, **asdict(health)} if health else None,
        "finding": finding(analysis),
        "glossary": text.glossary(analysis),
        "gaps": analysis.gaps,
        "notes": spec.notes,
        "differences": text.difference_sentences(analysis),
        "comparisons": text.holding_count(analysis),
        "methods": [text.METHOD_OF_INTERVALS, text.METHOD_OF_TESTS] if health else [],
        "command": spec.command,
        "keys": [record.key for record in analysis.records],
        "csv": (analysis.frame() if health else analysis.cells_frame()).to_csv(index=False),
        "latex": render_latex(analysis),
    }


NOTHING: dict[str, Any] = {"ours": None, "interval": "", "how": "", "spread": "", "paper": None, "delta": None}
NOTHING |= {"good": None, "best": False, "n": 0, "seeds": 0, "missing": 0, "status": "–", "reason": ""}


def _entry(entry: Entry) -> dict[str, Any]:
    """One place of the table; ``good`` is the direction of Δ."""
    shown = text.shown(entry)
    return {
        "ours": entry.ours,
        "interval": shown.interval,
        "how": entry.interval,
        "spread": shown.spread,
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
