"""``asft store``: verify, clean up, export and import what was computed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from asft.cells.cell import Cell
from asft.cells.compose import enumerate_cells
from asft.cells.keys import entries
from asft.commands.run import distinct
from asft.config import ConfigError
from asft.store.archive import MAX_FILES, MAX_GB, WEIGHTLESS, export, import_archive
from asft.store.cleaning import removable, remove, verify
from asft.store.entries import KINDS, Store


def store(arguments: list[str]) -> int:
    """Does what the first word says.

    Returns:
        0; 1 when ``verify`` found damage or ``export`` found cells missing.

    Raises:
        ConfigError: for a wrong configuration.
    """
    options, overrides = _parser().parse_known_args(arguments)
    if strays := [word for word in overrides if "=" not in word]:
        raise ConfigError(f"{strays[0]}: not of the form KEY=VALUE, e.g. experiment=table2")
    jobs = list(distinct(enumerate_cells(overrides, sweep=True).cells).values())
    cells, place = [job.cell for job in jobs], jobs[0].store
    if not place.root.is_dir():
        raise ConfigError(f"outputs={place.root}: no such folder")
    terminal = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    if options.action == "verify":
        return _verify(place, terminal)
    if options.action == "gc":
        named = [word for word in overrides if not word.startswith("outputs=")]
        return _clean(place, cells if named else None, options.yes, terminal)
    if options.action == "export":
        return _export(place, cells, options.file, options.weights, terminal)
    imported = import_archive(place, options.file, max_gb=options.max_gb, max_files=options.max_files)
    terminal.print(f"{imported.new} entries imported, {imported.known} were here already")
    return 0


def _verify(place: Store, terminal: Console) -> int:
    """Sets damaged entries aside, so that the next run computes them anew."""
    found = verify(place)
    for kind, key, reason in found.damaged:
        terminal.print(f"damaged: {reason}\n  set aside in {place.set_aside(kind, key)}")
    unverified = f", {found.unverified} from before there were checksums" if found.unverified else ""
    terminal.print(f"{found.whole} entries are whole, {len(found.damaged)} damaged{unverified}")
    return 1 if found.damaged else 0


def _clean(place: Store, cells: list[Cell] | None, really: bool, terminal: Console) -> int:
    """Lists what can go, and deletes it only when asked to."""
    named = None if cells is None else {entry for cell in cells for entry in entries(cell)}
    found = list(removable(place, named))
    table = Table("what", "MB", "why", box=None)
    for item in found:
        table.add_row(str(item.path.relative_to(place.root)), f"{item.size / 1e6:.1f}", item.why)
        if really:
            remove(item)
    if found:
        terminal.print(table)
    size = sum(item.size for item in found) / 1e6
    verb = "deleted" if really else "could go; --yes deletes them"
    terminal.print(f"{len(found)} files and folders of {size:.1f} MB {verb}")
    return 0


def _export(place: Store, cells: list[Cell], file: Path, weights: bool, terminal: Console) -> int:
    """Packs the finished cells and their stages."""
    kinds = KINDS if weights else WEIGHTLESS
    wanted = {entry for cell in cells for entry in entries(cell) if entry[0] in kinds}
    keys = {entry for entry in wanted if entry[0] in {"cells", "measures"}}
    missing = [entry for entry in keys if place.find(*entry) is None]
    if len(missing) == len(keys):
        raise ConfigError(f"none of the {len(keys)} cells is finished; there is nothing to export")
    count = export(place, wanted, file)
    terminal.print(f"{file}: {count} entries, {file.stat().st_size / 1e6:.1f} MB")
    if missing:
        terminal.print(f"{len(missing)} of {len(keys)} cells are not finished and therefore not in it")
    return 1 if missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asft store",
        description="Look after the outputs folder. Overrides such as outputs=FOLDER and experiment=table2 follow.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("verify", help="read every byte; set damaged entries aside")
    clean = actions.add_parser(
        "gc", help="list leftovers and, where an experiment is named, the entries that it does not name"
    )
    clean.add_argument("--yes", action="store_true", help="delete what is listed")
    pack = actions.add_parser("export", help="write an experiment's finished cells to one .tar.gz")
    pack.add_argument("file", type=Path)
    pack.add_argument("--weights", action="store_true", help="adapters, training curves and embedded pairs too")
    unpack = actions.add_parser("import", help="bring an exported file's entries in")
    unpack.add_argument("file", type=Path)
    unpack.add_argument("--max-gb", type=float, default=MAX_GB, help="refuse more than this unpacked")
    unpack.add_argument("--max-files", type=int, default=MAX_FILES)
    return parser
