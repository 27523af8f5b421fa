"""``asft store``: verify, clean up, export and import what was computed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from asft.cells.cell import Cell
from asft.cells.compose import enumerate_cells
from asft.cells.keys import entries
from asft.commands.flags import Flags, number, whole
from asft.commands.run import PRACTICAL, distinct
from asft.config import ConfigError
from asft.console import results
from asft.store.archive import MAX_FILES, MAX_GB, WEIGHTLESS, export, import_archive
from asft.store.cleaning import at_work, clean, set_damaged_aside, verify
from asft.store.entries import KINDS, Store


def store_verify(arguments: list[str]) -> int:
    """Sets damaged entries aside, so that the next run computes them anew; returns 1 when there were some."""
    flags = Flags("store verify", "outputs=FOLDER")
    place, _, terminal = _opened(flags.split(arguments)[1])
    found = verify(place)
    for kind, key, reason in found.damaged:
        aside = set_damaged_aside(place, kind, key)
        terminal.print(f"damaged: {reason}\n  {f'set aside in {aside}' if aside else 'left to who makes it anew'}")
    terminal.print(f"{found.whole} entries are whole, {len(found.damaged)} damaged")
    return 1 if found.damaged else 0


def store_gc(arguments: list[str]) -> int:
    """Lists what can go, and deletes it only when asked to."""
    flags = Flags("store gc", "experiment=table2, outputs=FOLDER, …")
    flags.add_argument("--yes", action="store_true", help="delete what is listed")
    options, overrides = flags.split(arguments)
    place, cells, terminal = _opened(overrides)
    named = any(not word.startswith("outputs=") and not PRACTICAL.match(word) for word in overrides)
    found = clean(place, {entry for cell in cells for entry in entries(cell)} if named else None, delete=options.yes)
    table = Table("what", "MB", "why", box=None)
    for item in found:
        table.add_row(str(item.path.relative_to(place.root)), f"{item.size / 1e6:.1f}", item.why)
    if named and at_work(place):
        terminal.print("a cell is being worked on, which may use any entry: entries can go once none is")
    if found:
        terminal.print(table)
    size = sum(item.size for item in found) / 1e6
    verb = "deleted" if options.yes else "could go; --yes deletes them"
    terminal.print(f"{len(found)} files and folders of {size:.1f} MB {verb}")
    return 0


def store_export(arguments: list[str]) -> int:
    """Packs the finished cells and their stages; returns 1 when cells were missing, ConfigError where all are."""
    flags = Flags("store export", "experiment=table2 …", needed=True)
    flags.add_argument("file", type=Path, metavar="FILE", help="a new .tar.gz")
    flags.add_argument("--weights", action="store_true", help="adapters, training curves and embedded pairs too")
    options, overrides = flags.split(arguments)
    if options.file.exists() or not options.file.parent.is_dir():
        lack = "is there already; name a new file" if options.file.exists() else "there is no such folder to write to"
        raise ConfigError(f"{options.file}: {lack}")
    place, cells, terminal = _opened(overrides)
    kinds = KINDS if options.weights else WEIGHTLESS
    wanted = {entry for cell in cells for entry in entries(cell) if entry[0] in kinds}
    keys = {entry for entry in wanted if entry[0] in {"cells", "measures"}}
    missing = [entry for entry in keys if place.find(*entry) is None]
    if len(missing) == len(keys):
        raise ConfigError(f"none of the {len(keys)} cells is finished; there is nothing to export")
    count = export(place, wanted, options.file)
    terminal.print(f"{options.file}: {count} entries, {options.file.stat().st_size / 1e6:.1f} MB")
    if missing:
        terminal.print(f"{len(missing)} of {len(keys)} cells are not finished and therefore not in it")
    return 1 if missing else 0


def store_import(arguments: list[str]) -> int:
    """Brings an exported file's entries in; the folder is made where there is none."""
    flags = Flags("store import", "outputs=FOLDER")
    flags.add_argument("file", type=Path, metavar="FILE", help="what `asft store export` wrote")
    flags.add_argument("--max-gb", type=number(0), default=MAX_GB, help="refuse more than this unpacked (%(default)s)")
    flags.add_argument("--max-files", type=whole(), default=MAX_FILES, help="and more files than this (%(default)s)")
    options, overrides = flags.split(arguments)
    place, _, terminal = _opened(overrides, there=False)
    imported = import_archive(place, options.file, max_gb=options.max_gb, max_files=options.max_files)
    terminal.print(f"{imported.new} entries imported, {imported.known} were here already")
    return 0


def _opened(overrides: list[str], *, there: bool = True) -> tuple[Store, list[Cell], Console]:
    """The store that the words name, their distinct cells, and the terminal."""
    jobs = list(distinct(enumerate_cells(overrides, sweep=True).cells).values())
    cells, place = [job.cell for job in jobs], jobs[0].store
    if there and not place.root.is_dir():
        raise ConfigError(f"outputs={place.root}: no such folder")
    return place, cells, results(soft_wrap=True)
