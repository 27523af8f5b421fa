"""``asft report``: an experiment's table beside the paper's, from finished cells."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from asft.cells.compose import Sweep, enumerate_cells, overrides_of
from asft.cells.keys import plan
from asft.config import ConfigError, ExperimentConfig
from asft.report.collect import experiment_of, records, table_spec
from asft.report.collect_measures import measure_table, measures_in, single_table
from asft.report.records import MissingCell
from asft.report.writers.measure_print import write_measures_for_print
from asft.report.writers.measures import print_measures, write_measures
from asft.report.writers.write import PRINT_FORMATS, print_report, write_for_print, write_report
from asft.store.entries import content_key


def report(arguments: list[str]) -> int:
    """Writes Markdown, CSV, LaTeX and HTML, prints the table, and names the page.

    ``--format pdf`` adds the table and the figures as PDF, ``--format tex`` also a document that holds them.

    Raises:
        ConfigError: when no cell of the experiment is finished, or the configuration is wrong.
    """
    kind, arguments = _format(arguments)
    sweep = enumerate_cells(overrides_of(arguments), sweep=True)
    if measures_in(sweep):
        return report_measures(sweep, arguments, kind)
    experiment, cells = experiment_of(sweep), records(sweep)
    if all(isinstance(cell, MissingCell) for cell in cells):
        raise ConfigError(
            f"experiment={experiment.name}: none of its {len(cells)} cells is finished; "
            f"first launch `asft run -m {shlex.join(arguments)}`"
        )
    spec = table_spec(sweep, f"asft run -m {shlex.join(arguments)}")
    folder = sweep.cells[0].cell.outputs / "reports" / _folder_name(sweep, experiment)
    paths = write_report(spec, cells, folder)
    terminal = Console(file=sys.stdout, highlight=False)
    print_report(spec, cells, terminal)
    terminal.print(f"\nPage: {paths.html.resolve()}", soft_wrap=True)
    if kind is not None:
        _tell(kind, write_for_print(spec, cells, folder, kind), terminal)
    return 0


def report_measures(sweep: Sweep, arguments: list[str], kind: str | None = None) -> int:
    """The report of an experiment whose cells measure something else than scores, for print too as :func:`report`.

    Raises:
        ConfigError: when nothing is measured yet.
    """
    if sweep.cells[0].cell.experiment is None and len(sweep.cells) == 1:
        table = single_table(sweep.cells[0], f"asft landscape {shlex.join(arguments)}")
        name = f"landscape_{plan(sweep.cells[0].cell).key}"
    else:
        table = measure_table(sweep, f"asft landscape {shlex.join(arguments)}")
        name = _folder_name(sweep, experiment_of(sweep))
    if not table.records:
        raise ConfigError(f"{table.spec.name}: nothing is measured yet; first `asft run -m {shlex.join(arguments)}`")
    folder = sweep.cells[0].cell.outputs / "reports" / name
    paths = write_measures(table, folder)
    terminal = Console(file=sys.stdout, highlight=False)
    print_measures(table, terminal)
    terminal.print(f"\nPage: {paths.html.resolve()}", soft_wrap=True)
    if kind is not None:
        _tell(kind, write_measures_for_print(table, folder, kind), terminal)
    return 0


def _tell(kind: str, paths: list[Path], terminal: Console) -> None:
    """Names the files for print."""
    for path in paths:
        terminal.print(f"{kind}: {path.resolve()}", soft_wrap=True)


def _format(arguments: list[str]) -> tuple[str | None, list[str]]:
    """What ``--format KIND`` or ``--format=KIND`` asks for besides the usual files, and the other arguments."""
    kind: str | None = None
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, _, value = word.partition("=")
        if name != "--format":
            rest.append(word)
        elif (kind := value or next(words, "")) not in PRINT_FORMATS:
            raise ConfigError(f"--format {kind}: allowed: {', '.join(PRINT_FORMATS)}")
    return kind, rest


def _folder_name(sweep: Sweep, experiment: ExperimentConfig) -> str:
    """The experiment and its model; other cells or another layout under the same names get a folder of their own."""
    cells = sorted(plan(item.cell).key for item in sweep.cells)
    identity = content_key({"cells": cells, "layout": asdict(experiment)})
    return f"{experiment.name}_{sweep.cells[0].cell.model.name}_{identity[:6]}"
