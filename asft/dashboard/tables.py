"""An experiment's table as the page shows it: the report's own analysis, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asft.cells.compose import Sweep, config_dir, enumerate_cells
from asft.cells.job import state_of
from asft.config import ConfigError
from asft.dashboard.cells import flatten
from asft.frontier.compare import frontier_of
from asft.frontier.write import page_data
from asft.report import text
from asft.report.analysis import Analysis, Difference
from asft.report.collect import analysis_of, experiment_of
from asft.report.contrast import finding
from asft.report.records import Result
from asft.report.table import ALL_COLUMNS, Entry, number, signed
from asft.report.writers.figures import figures, landscape
from asft.report.writers.write import texts
from asft.store.entries import Entry as Stored
from asft.store.schemas import CONFIG_FILE, DETAILS, Config, Details, read_document

Data = dict[str, Any]

WORDS = {
    "safe_share": "share of the grid that is safe, %",
    "centre": "HS of the aligned model itself, %",
    "cosine": "cosine between the two directions",
    "mean_hs": "mean HS along the direction, %",
    "mean_hs_random": "mean HS along the random directions, %",
    "epl": "EPL, the α up to which the model stays safe both ways (dashed)",
    "ahead": "the same towards positive α",
    "behind": "the same towards negative α",
}


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


def experiment_page(experiment: Experiment) -> tuple[Data, Data | None]:
    """The experiment's line in the overview, and its table where at least one cell is finished.

    One that cannot be laid out says why in its line, so that the others are still shown.
    """
    words: Data = {"name": experiment.name, "title": experiment.name, "verdict": None, "problem": experiment.problem}
    words |= {"done": 0, "failed": 0, "total": 0, "page": "table"}
    if experiment.sweep is None:
        return words, None
    command = " ".join(["asft run -m", f"experiment={experiment.name}", *experiment.overrides])
    if experiment_of(experiment.sweep).wishes:
        return _frontier_page(words, experiment.sweep, command)
    try:
        analysis = analysis_of(experiment.sweep, command)
    except ConfigError as error:
        return {**words, "problem": str(error)}, None
    statuses = [cell.status for cell in analysis.cells]
    words |= {"done": statuses.count("done"), "failed": statuses.count("failed"), "total": len(statuses)}
    words["title"] = analysis.spec.title
    if not words["done"]:
        return words, None
    return {**words, "verdict": analysis.health.short if analysis.health else None}, table_data(analysis)


def _frontier_page(words: Data, sweep: Sweep, command: str) -> tuple[Data, Data | None]:
    """The same of an experiment that compares methods over their strengths."""
    jobs = {job.key: job for job in sweep.cells}.values()
    beats = sweep.cells[0].store.latest()
    found = Counter(state_of(job, beats).standing for job in jobs)
    words |= {"title": experiment_of(sweep).title, "page": "frontier", "total": len(jobs)}
    words |= {"done": found["done"], "failed": found["failed"] + found["damaged"]}
    if not words["done"]:
        return words, None
    try:
        return words, page_data(frontier_of(sweep, command))
    except ConfigError as error:
        return {**words, "page": None, "title": f"{words['title']} ({error})"}, None


def table_data(analysis: Analysis) -> Data:
    """Everything the page of a table shows or hands out; one that measures has no controls to judge it by."""
    spec, health = analysis.spec, analysis.health
    tables = [*_comparisons(analysis), *([_costs(analysis)] if health else []), _cells(analysis)]
    configs = [flatten(result.config) for result in analysis.results]
    shared = [[k, v] for k, v in configs[0].items() if all(other.get(k) == v for other in configs)] if configs else []
    tables.append(_table("Settings that every cell shares", ["key", "value"], shared))
    return {
        "name": spec.name,
        "title": spec.title,
        "health": {"headline": health.headline, **asdict(health)} if health else None,
        "finding": finding(analysis),
        "glossary": text.glossary(analysis),
        "notes": spec.notes,
        "panels": [_panel(analysis, metric) for metric in analysis.shown],
        "legend": _legend(analysis),
        "gaps": analysis.gaps,
        "figures": [asdict(figure) for figure in figures(analysis)],
        "differences": text.difference_lines(analysis),
        "tables": [table for table in tables if table["rows"]],
        "downloads": texts(analysis),
        "command": spec.command,
        "versions": text.made_with(analysis.made_with),
    }


def _panel(analysis: Analysis, metric: str) -> Data:
    """One metric's table; places of scores name the cells whose answers they are made of."""
    spec, scored = analysis.spec, analysis.health is not None
    rows = [
        {
            "label": line[0].label,
            "control": line[0].control and scored,
            "entries": [
                _entry(entry, analysis.at(entry.row, column) if scored else [])
                for column, entry in zip(spec.columns, line, strict=True)
            ],
        }
        for line in analysis.lines(metric)
    ]
    columns, title = [column.label for column in spec.columns], analysis.heading(metric)
    return {"title": title, "axis": spec.column_title, "columns": columns, "rows": rows}


def _entry(entry: Entry, results: Sequence[Result]) -> Data:
    """One place of the table in words; ``value`` sorts, ``good`` is the direction of Δ."""
    how = "; ".join(part for part in (f"{entry.n} rows" if entry.n else "", entry.interval) if part)
    least, most = (number(value, entry.metric) for value in (entry.minimum, entry.maximum))
    spread = f"{entry.seeds} seeds from {least} to {most}" if entry.seeds > 1 else ""
    return {
        "value": entry.ours,
        "text": entry.text,
        "interval": entry.range_text,
        "how": entry.reason if entry.ours is None else f"{entry.ours:.4g} ({how})" if how else "",
        "more": [line for line in (spread, entry.seeds_text) if line],
        "paper": entry.paper_text,
        "delta": entry.delta_text,
        "good": entry.better_than_paper,
        "best": entry.best,
        "cells": [(result.key, result.seed) for result in results],
    }


def _legend(analysis: Analysis) -> list[str]:
    """How to read the panels."""
    if not analysis.health:
        return []
    over = f"Means over {analysis.seeds} seeds. " if analysis.seeds > 1 else ""
    marks = "Underlined: best defence of a column. Grey rows are controls. Δ is ours minus the paper's, in points, "
    return [f"{over}{marks}green on the better side. {text.METHOD_OF_INTERVALS}"]


def _table(title: str, header: Sequence[str], rows: list[list[Any]], note: str = "", *, unfolded: bool = False) -> Data:
    """A table in text; a place may be a text with a style."""
    return {"title": title, "note": note, "header": header, "rows": rows, "open": unfolded}


def _comparisons(analysis: Analysis) -> list[Data]:
    """A matrix for each reference row, and every test with its p-value."""
    spec, label, tests = analysis.spec, analysis.spec.label, analysis.comparisons
    found = {(d.reference, d.method, d.metric.name, d.column): d for d in tests}
    columns = [(metric, column.label) for metric in analysis.metrics for column in spec.columns]
    header = [spec.column_title, *(f"{metric}, {column}" for metric, column in columns)]
    note = f"Percentage points; ✓ holds at 5% after Holm's correction. {text.METHOD_OF_TESTS}"
    tables = []
    for reference in dict.fromkeys(d.reference for d in tests):
        rows = []
        for method in dict.fromkeys(d.method for d in tests if d.reference == reference):
            places = [
                found.get((reference, method, metric, column)) or found.get((reference, method, metric, ALL_COLUMNS))
                for metric, column in columns
            ]
            rows.append([label(method), *map(_difference, places)])
        tables.append(_table(f"Method minus {label(reference)}", header, rows, note, unfolded=True))
    header = ["method", "against", "at", "metric", "difference", "p-value", "p, Holm", "prompts", "seeds", "test"]
    rows = [
        [
            *(label(d.method), label(d.reference), d.column, d.metric.name, signed(d.result.difference)),
            *(text.p_value(d.result.p_value), text.p_value(d.p_holm)),
            *(str(d.result.n), str(d.result.seeds), d.result.test),
        ]
        for d in tests
    ]
    return [*tables, _table("Every comparison with its p-value", header, rows)]


def _difference(item: Difference | None) -> str | list[str]:
    if item is None:
        return "–"
    shown = signed(item.result.difference)
    return [f"{shown} ✓", "good" if item.better else "bad"] if item.holds else [shown, "soft"]


def _costs(analysis: Analysis) -> Data:
    """Wall seconds, how many cells trained, and peak memory where it was measured, by row."""
    rows = []
    for row, label in analysis.spec.rows.items():
        if results := analysis.row_results(row):
            cells, trained = len(results), sum(result.trained for result in results)
            seconds = sum(result.seconds for result in results)
            peaks = [result.peak_memory_mb for result in results if result.peak_memory_mb is not None]
            numbers = [str(cells), str(trained), str(cells - trained), f"{seconds:.1f}", f"{seconds / cells:.1f}"]
            rows.append([label, *numbers, f"{max(peaks):.0f}" if peaks else "–"])
    note = "Shared: the cell takes another cell's adapter, or the untouched model, and trains nothing."
    header = ["method", "cells", "trained", "shared", "seconds", "per cell", "peak MiB"]
    return _table("Cost by method", header, rows, note)


def _cells(analysis: Analysis) -> Data:
    """Every finished cell with every number it has."""
    lines = analysis.cells_frame()
    header = list(dict.fromkeys(name for line in lines for name in line))
    header += ["adapter", "cell"] if analysis.health else ["cell"]
    for line, result in zip(lines, analysis.results, strict=True):
        line |= {"adapter": "trained" if result.trained else "shared", "cell": result.key[:12]}
    values = [[line.get(name, "") for name in header] for line in lines]
    rows = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in line] for line in values]
    title = "Every cell, with what its method logged" if analysis.health else "Everything that was measured"
    return _table(title, header, rows, unfolded=not analysis.health)


def landscape_data(entry: Stored) -> Data | None:
    """A plane, the lines or the profiles of one finished measure; None where it has no landscape (a cosine)."""
    details = read_document(entry.path / DETAILS, Details)
    config = read_document(entry.path / CONFIG_FILE, Config)
    kind, values = details.get("kind"), entry.result["values"]
    if kind not in {"plane", "lines", "epl"}:
        return None
    if kind == "plane":
        title = f"{details['x']} × {details['y']}{', y made orthogonal' if details['orthogonal'] else ''}"
    elif kind == "lines":
        title = f"{details['along']} direction and {len(details['random'])} random ones"
    else:
        title = f"safe stretch along the {config['measure']['direction']} direction"
    spec, rows = landscape(details, (config.get("measure") or {}).get("direction", ""), values.get("epl"))
    return {
        "title": f"{title}: {config['model']['name']}, seed {config['seed']}",
        "spec": spec,
        "rows": rows,
        "values": [f"{WORDS.get(name, name)}: {value:.4g}" for name, value in values.items()],
    }
