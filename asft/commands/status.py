"""``asft status``: which cells of an experiment are done, failed or missing."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from asft.commands.run import distinct, values_text
from asft.compose import enumerate_cells, overrides_of
from asft.keys import plan
from asft.store import Entry, Store


def status(arguments: list[str]) -> int:
    """Prints one line a distinct cell and a count; returns 0 when all are done, else 1."""
    sweep = enumerate_cells(overrides_of(arguments), sweep=True)
    cells = distinct(sweep.cells)
    table = Table("cell", *(axis for axis in sweep.axes if axis != "method"), "status", "HS", "FA", box=None)
    done = 0
    for key, item in cells.items():
        store = Store(item.cell.outputs)
        axes = {axis: value for axis, value in item.axes.items() if axis != "method"}
        name = item.cell.method.name if item.cell.measure is None else item.cell.measure.name
        place = [name, *axes.values()]
        if entry := store.find(plan(item.cell).kind, key):
            table.add_row(*place, "done", *_numbers(entry))
            done += 1
        else:
            reason = store.failure(key)
            table.add_row(*place, f"failed: {reason}" if reason else "missing", "", "")
    terminal = Console(file=sys.stdout, highlight=False, markup=False)
    terminal.print(table)
    terminal.print(f"{done} of {len(cells)} cells done")
    return 0 if done == len(cells) else 1


def _numbers(entry: Entry) -> tuple[str, str]:
    """HS and FA, or what was measured instead."""
    if "metrics" not in entry.result:
        return values_text(entry), ""
    metrics = entry.result["metrics"]
    return f"{metrics['hs']:.1f}", f"{metrics['fa']:.1f}"
