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
from asft.report.frame import Entry
from asft.report.records import Column

CELL_WIDTH = 11  # holds "84.30 -12.3" and "98.5–100.0"
LABEL_WIDTH = 15

HEALTH_STYLES = {"sound": "green", "partial": "yellow", "unchecked": "yellow", "nothing": "bold red"}


def print_analysis(analysis: Analysis, console: Console) -> None:
    """Prints the verdict, one table per metric, what is missing, and the differences that hold."""
    spec = analysis.spec
    console.print(Text(f"{spec.name}: {spec.title}", style="bold"))
    health = analysis.health
    console.print(Text(f"{health.headline} {health.why}", style=HEALTH_STYLES[health.verdict]))
    for metric in spec.metrics:
        console.print()
        over = f", mean of {analysis.seeds} seeds" if analysis.seeds > 1 else ""
        console.print(Text(text.metric_title(metric) + over, style="bold"))
        for columns in _blocks(spec.columns, console.width):
            console.print(_table(analysis, metric, columns))
    console.print(Text(_legend(analysis), style="dim"))
    _print_list("No result", analysis.gaps, console)
    _print_list("Differences that hold", _differences(analysis), console)
    _print_list("What differs from the paper", spec.notes, console)


def _blocks(columns: Sequence[Column], width: int) -> Iterator[Sequence[Column]]:
    """The columns in blocks that the console has room for."""
    fitting = max(1, (width - LABEL_WIDTH) // (CELL_WIDTH + 1))
    return (columns[start : start + fitting] for start in range(0, len(columns), fitting))


def _table(analysis: Analysis, metric: str, columns: Sequence[Column]) -> Table:
    spec = analysis.spec
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.add_column("", width=LABEL_WIDTH, overflow="fold")
    for column in columns:
        table.add_column(Text(column.label), justify="right", width=CELL_WIDTH, overflow="fold")
    for row in spec.rows:
        entries = [analysis.entry(metric, row, column) for column in columns]
        table.add_row(Text(spec.label(row)), *(_value(entry) for entry in entries))
        if any(entry.lo is not None for entry in entries):
            intervals = (Text(text.interval(entry), style="dim") for entry in entries)
            table.add_row(Text("  95%", style="dim"), *intervals)
        if any(entry.paper is not None for entry in entries):
            table.add_row(Text("  paper, Δ", style="dim"), *(_paper(entry) for entry in entries))
    return table


def _value(entry: Entry) -> Text:
    if entry.ours is None:
        return Text(entry.status, style="red" if entry.status == "failed" else "yellow")
    shown = text.score(entry.ours) + ("†" if entry.status == "partial" else "")
    if entry.best:
        return Text(f"*{shown}", style="bold green")
    return Text(shown)


def _paper(entry: Entry) -> Text:
    line = Text(text.paper(entry), style="dim")
    if entry.delta is not None:
        style = {True: "green", False: "red", None: "dim"}[entry.better_than_paper]
        line.append(f" {text.signed(entry.delta)}", style=style)
    return line


def _legend(analysis: Analysis) -> str:
    parts = ["* best defence of the column."]
    if any(entry.paper is not None for entry in analysis.entries):
        parts.append("Δ is ours minus the paper's, in points.")
    if any(entry.status == "partial" for entry in analysis.entries):
        parts.append("† some seeds have no result.")
    return " ".join(parts)


def _differences(analysis: Analysis) -> tuple[str, ...]:
    if not analysis.comparisons:
        return ()
    sentences = text.difference_sentences(analysis.holding, analysis.spec.label)
    return (*sentences, text.holding_count(len(analysis.holding), len(analysis.comparisons)))


def _print_list(heading: str, lines: Sequence[str], console: Console) -> None:
    if not lines:
        return
    console.print()
    console.print(Text(heading, style="bold"))
    for line in lines:
        bulleted = Table.grid(padding=(0, 1, 0, 0))
        bulleted.add_row(Text("-"), Text(line))
        console.print(Padding(bulleted, 0, expand=False))
