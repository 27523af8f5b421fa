"""``asft status``: which cells of an experiment are done, failed or missing."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from asft.commands.run import describe, distinct
from asft.compose import enumerate_cells, overrides_of
from asft.store import Store


def status(arguments: list[str]) -> int:
    """Prints one line a distinct cell and a count; returns 0 when all are done, else 1."""
    overrides = overrides_of(arguments)
    cells = distinct(enumerate_cells(overrides, sweep=True).cells)
    table = Table("cell", "status", "HS", "FA", box=None, pad_edge=False)
    done = 0
    for key, item in cells.items():
        store = Store(item.cell.outputs)
        if entry := store.find("cells", key):
            metrics = entry.result["metrics"]
            table.add_row(describe(item.cell), "done", f"{metrics['hs']:.1f}", f"{metrics['fa']:.1f}")
            done += 1
        else:
            reason = store.failure(key)
            table.add_row(describe(item.cell), f"failed: {reason}" if reason else "missing", "", "")
    terminal = Console(file=sys.stdout, highlight=False, markup=False)
    terminal.print(table)
    terminal.print(f"{done} of {len(cells)} cells done")
    return 0 if done == len(cells) else 1
