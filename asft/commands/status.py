"""``asft status``: which cells of an experiment are done, running, failed or interrupted, and the time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from rich.console import Console
from rich.table import Table

from asft.cells.compose import Sweep, enumerate_each
from asft.cells.job import CellState, state_of
from asft.commands.flags import SweepFlags
from asft.commands.progress import time_left
from asft.commands.run import distinct, values_text
from asft.console import results


def status(arguments: list[str]) -> int:
    """Prints one line a distinct cell, a count and an estimate; returns 0 when all are done, else 1."""
    _, overrides = SweepFlags("status").split(arguments)
    terminal, sweeps = results(), enumerate_each(overrides)
    cells = distinct([job for sweep in sweeps for job in sweep.cells])
    states = {key: state_of(item) for key, item in cells.items()}
    for sweep in sweeps:
        if len(sweeps) > 1 and (experiment := sweep.cells[0].experiment):
            terminal.print(f"experiment={experiment.name}", style="bold")
        _print(sweep, states, terminal)
    counts = Counter(state.standing for state in states.values())
    others = "".join(f", {count} {name}" for name, count in counts.items() if name != "done")
    left = time_left(states)
    terminal.print(f"{counts['done']} of {len(cells)} cells done{others}" + (f"; {left}" if left else ""))
    if not overrides:
        terminal.print("This is the default configuration's one cell; name a sweep, e.g. asft status experiment=table2")
    return 0 if counts["done"] == len(cells) else 1


def _print(sweep: Sweep, states: Mapping[str, CellState], terminal: Console) -> None:
    """One line a distinct cell, by the axes and metrics of its own experiment."""
    axes, first = [axis for axis in sweep.axes if axis != "method"], sweep.cells[0].cell
    metrics = ["measured"] if first.measure else list(first.metrics)
    table = Table("cell", *axes, "status", *metrics, box=None)
    for key, item in distinct(sweep.cells).items():
        table.add_row(states[key].name, *(item.axes.get(axis, "") for axis in axes), *_columns(states[key], metrics))
    terminal.print(table)


def _columns(state: CellState, names: Iterable[str]) -> list[str]:
    """Standing and metrics of these names, or what was measured instead."""
    if entry := state.entry:
        metrics = entry.result.get("metrics")
        if metrics is None:
            return ["done", values_text(entry)]
        return ["done", *(f"{metrics[name]['value']:.1f}" if name in metrics else "" for name in names)]
    if beat := state.beat:
        since = datetime.fromisoformat(beat.started).astimezone()
        return [f"running: {beat.progress}, on {beat.where} since {since:%d %b %H:%M}"]
    return [f"{state.standing}: {state.reason}" if state.reason else state.standing]
