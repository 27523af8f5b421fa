"""``asft status``: which cells of an experiment are done, running, failed or missing, and the time left."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime

from rich.console import Console
from rich.table import Table

from asft.cells.compose import enumerate_cells
from asft.commands.flags import SweepFlags
from asft.commands.run import distinct, values_text
from asft.commands.standing import CellState, duration, seconds_left, state_of
from asft.store.entries import Entry


def status(arguments: list[str]) -> int:
    """Prints one line a distinct cell, a count and an estimate; returns 0 when all are done, else 1."""
    _, overrides = SweepFlags("status").split(arguments)
    sweep = enumerate_cells(overrides, sweep=True)
    cells = distinct(sweep.cells)
    states = {key: state_of(item) for key, item in cells.items()}
    axes = [axis for axis in sweep.axes if axis != "method"]
    table = Table("cell", *axes, "status", *sweep.cells[0].cell.metrics, box=None)
    for key, item in cells.items():
        name = item.cell.method.name if item.cell.measure is None else item.cell.measure.name
        table.add_row(name, *(item.axes.get(axis, "") for axis in axes), *_columns(states[key]))
    terminal = Console(file=sys.stdout, highlight=False, markup=False)
    terminal.print(table)
    counts = Counter(state.standing for state in states.values())
    others = "".join(f", {count} {name}" for name, count in counts.items() if name != "done")
    left = seconds_left(states)
    terminal.print(
        f"{counts['done']} of {len(cells)} cells done{others}" + (f"; about {duration(left)} left" if left else "")
    )
    return 0 if counts["done"] == len(cells) else 1


def _columns(state: CellState) -> list[str]:
    """Standing and metrics."""
    if state.entry:
        return ["done", *_numbers(state.entry)]
    if beat := state.beat:
        since = datetime.fromisoformat(beat.started).astimezone()
        return [f"running: {beat.progress}, on {beat.where} since {since:%d %b %H:%M}"]
    return [f"{state.standing}: {state.reason}" if state.reason else state.standing]


def _numbers(entry: Entry) -> list[str]:
    """The metrics, or what was measured instead."""
    if "metrics" not in entry.result:
        return [values_text(entry)]
    return [f"{metric['value']:.1f}" for metric in entry.result["metrics"].values()]
