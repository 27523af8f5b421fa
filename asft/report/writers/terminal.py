"""The table in a terminal: 80 columns are enough, and colour only repeats what the text says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from asft.report import text
from asft.report.analysis import Analysis
from asft.report.contrast import finding
from asft.report.table import Entry

CELL_WIDTH = 11  # holds "84.30 -12.3" and "98.5–100.0"
LABEL_WIDTH = 15

HEALTH_STYLES = {"sound": "green", "partial": "yellow", "unchecked": "yellow", "nothing": "bold red"}


def print_analysis(analysis: Analysis, console: Console) -> None:
    """Prints the verdict and the finding, one table per metric, what is missing, and the differences that hold."""
    spec, health = analysis.spec, analysis.health
    console.print(Text(f"{spec.name}: {spec.title}", style="bold"))
    if health:
        console.print(Text(f"{health.headline} {health.why}", style=HEALTH_STYLES[health.verdict]))
    if found := finding(analysis):
        console.print(Text(found))
    for name in analysis.shown:
        console.print()
        over = f", mean of {analysis.seeds} seeds" if analysis.seeds > 1 else ""
        console.print(Text(analysis.heading(name) + over, style="bold"))
        _print_blocks(analysis, analysis.lines(name), console)
    for line in filter(None, (" ".join(_legend(analysis)), *text.glossary(analysis))):
        console.print(Text(line, style="dim"))
    _print_list("No result", analysis.gaps, console)
    _print_list("Differences that hold", text.difference_lines(analysis), console)
    _print_list("What differs from the paper", spec.notes, console)


def _print_blocks(analysis: Analysis, lines: Sequence[Sequence[Entry]], console: Console) -> None:
    """One metric's table in blocks of the columns that the console has room for."""
    intervals = [len(entry.range_text) for line in lines for entry in line]
    cell = max([CELL_WIDTH, *intervals]) + 1
    fitting = max(1, (console.width - LABEL_WIDTH) // cell)
    for start in range(0, len(analysis.spec.columns), fitting):
        block = slice(start, start + fitting)
        room = console.width - cell * len(analysis.spec.columns[block])
        label = max(LABEL_WIDTH, min(room, max(len(line[0].label) for line in lines)))
        console.print(_table(analysis, lines, block, label, cell - 1))


def _table(analysis: Analysis, lines: Sequence[Sequence[Entry]], block: slice, label: int, cell: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("", width=label, overflow="fold")
    for column in analysis.spec.columns[block]:
        table.add_column(Text(column.label), justify="right", width=cell, overflow="fold")
    for line in lines:
        entries = line[block]
        table.add_row(Text(line[0].label), *map(_value, entries))
        if any(entry.lo is not None for entry in entries):
            intervals = (Text(entry.range_text, style="dim") for entry in entries)
            table.add_row(Text("  95%" if analysis.health else "  range", style="dim"), *intervals)
        if any(entry.paper is not None for entry in entries):
            table.add_row(Text("  paper, Δ" if analysis.health else "  paper", style="dim"), *map(_paper, entries))
    return table


def _value(entry: Entry) -> Text:
    if entry.ours is None:
        return Text(entry.text, style="red" if entry.status == "failed" else "yellow")
    shown = entry.text + ("†" if entry.status == "partial" else "")
    return Text(f"*{shown}", style="bold green") if entry.best else Text(shown)


def _paper(entry: Entry) -> Text:
    line = Text(entry.paper_text, style="dim")
    if entry.delta_text:
        line.append(f" {entry.delta_text}", style={True: "green", False: "red", None: "dim"}[entry.better_than_paper])
    return line


def _legend(analysis: Analysis) -> Iterator[str]:
    if analysis.health:
        yield "* best defence of the column."
        if any(entry.paper is not None for entry in analysis.entries):
            yield "Δ is ours minus the paper's, in points."
    if any(entry.status == "partial" for entry in analysis.entries):
        yield "† some seeds have no result."


def _print_list(heading: str, lines: Sequence[str], console: Console) -> None:
    if not lines:
        return
    console.print()
    console.print(Text(heading, style="bold"))
    for line in lines:
        bulleted = Table.grid(padding=(0, 1, 0, 0))
        bulleted.add_row(Text("-"), Text(line))
        console.print(Padding(bulleted, 0, expand=False))
