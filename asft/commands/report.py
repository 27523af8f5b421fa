"""``asft report``: an experiment's table beside the paper's, from finished cells."""

from __future__ import annotations

import shlex
from pathlib import Path

from asft.cells.compose import Sweep, enumerate_cells, one_by_one
from asft.commands.flags import SweepFlags
from asft.commands.run import sweep_name
from asft.config import ConfigError
from asft.console import console, results
from asft.dashboard.site import write_report_page
from asft.dashboard.tables import table_data
from asft.frontier.compare import frontier_of
from asft.frontier.write import page_data, print_frontier, write
from asft.report.collect import analysis_of, measures_in
from asft.report.writers.terminal import print_analysis
from asft.report.writers.write import PRINT_FORMATS, write_for_print, write_report


def report(arguments: list[str]) -> int:
    """Writes Markdown, CSV, LaTeX and a page, prints the table, and names the page.

    ``--format pdf`` adds the table and the figures as PDF, ``--format tex`` also a document that holds them.
    Of several experiments each has its own; returns 1 where one of them cannot be had, and says why.
    """
    flags = SweepFlags("report")
    flags.add_argument("--format", choices=PRINT_FORMATS, help="for print, too: PDFs, or a LaTeX document as well")
    options, words = flags.split(arguments)
    lines, failed = one_by_one(words), 0
    for line in lines:
        if line != lines[0]:
            results().print()
        try:
            report_sweep(enumerate_cells(line, sweep=True), line, options.format)
        except ConfigError as error:
            if len(lines) == 1:
                raise
            said = str(error) if str(error).startswith(line[0]) else f"{line[0]}: {error}"
            console.print(said, style="bold red", soft_wrap=True)
            failed = 1
    return failed


def report_sweep(sweep: Sweep, arguments: list[str], kind: str | None = None) -> int:
    """The report of a sweep that ``arguments`` stand for, for print too as :func:`report`."""
    launched = f"{'asft landscape' if measures_in(sweep) else 'asft run -m'} {shlex.join(arguments)}"
    if (experiment := sweep.cells[0].experiment) and experiment.wishes:
        return _report_frontier(sweep, launched, kind)
    analysis = analysis_of(sweep, launched)
    if not analysis.results:
        raise ConfigError(
            f"experiment={analysis.spec.name}: none of its {len(analysis.cells)} cells is finished; "
            f"first launch `{launched}`"
        )
    folder = _folder(sweep, analysis.spec.name)
    write_report(analysis, folder)
    page = write_report_page(folder, table_data(analysis))
    terminal = results()
    print_analysis(analysis, terminal)
    terminal.print(f"\nPage: {page.resolve()}", soft_wrap=True)
    if kind is not None:
        for path in write_for_print(analysis, folder, kind):
            terminal.print(f"{kind}: {path.resolve()}", soft_wrap=True)
    return 0


def _report_frontier(sweep: Sweep, launched: str, kind: str | None) -> int:
    if kind is not None:
        raise ConfigError(f"--format {kind}: a comparison over strengths is no table; leave --format out")
    found = frontier_of(sweep, launched)
    folder, terminal = _folder(sweep, found.name), results()
    write(found, folder)
    page = write_report_page(folder, page_data(found), "frontier")
    print_frontier(found, terminal)
    terminal.print(f"\nPage: {page.resolve()}", soft_wrap=True)
    return 0


def _folder(sweep: Sweep, name: str) -> Path:
    return sweep.cells[0].options.outputs / "reports" / sweep_name(sweep.cells, name)
