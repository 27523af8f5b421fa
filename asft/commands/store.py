"""``asft store``: verify, clean up, export and import what was computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.table import Table

from asft.cells.compose import enumerate_all
from asft.cells.job import Job
from asft.cells.keys import entries
from asft.commands.flags import Flags, number, whole
from asft.commands.run import PRACTICAL, distinct
from asft.config import ConfigError, PretrainedModel
from asft.console import results
from asft.store.archive import MAX_FILES, MAX_GB, WEIGHTLESS, export, import_archive
from asft.store.cleaning import UNNAMED, at_work, clean, set_damaged_aside, verify
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
    """Lists what can go, and deletes it only when asked to.

    Entries can go only where an experiment or several cells are named; ConfigError for words that name neither.
    """
    flags = Flags("store gc", "experiment=table2, outputs=FOLDER, …")
    flags.add_argument("--yes", action="store_true", help="delete what is listed")
    options, overrides = flags.split(arguments)
    place, jobs, terminal = _opened(overrides)
    # One cell is what any other word leaves of the defaults: nobody means to keep that alone.
    named = len(jobs) > 1 or jobs[0].experiment is not None
    words = [word for word in overrides if not word.startswith("outputs=") and not PRACTICAL.match(word)]
    if words and not named:
        raise ConfigError(
            f"{' '.join(words)}: names neither an experiment nor several cells, and all other entries would go; add "
            "experiment=NAME or a sweep (method=sft,asft), or leave it out: then only leftovers go"
        )
    keep = {entry for job in jobs for entry in entries(job.cell)} if named else None
    found = clean(place, keep, delete=False)
    if keep is not None:
        here, others = sum(job.find() is not None for job in jobs), sum(item.why == UNNAMED for item in found)
        terminal.print(f"kept: {here} finished of {len(jobs)} cells; {others} other entries go")
        if at_work(place):
            terminal.print("a cell is being worked on, which may use any entry: entries can go once none is")
    if options.yes:
        found = clean(place, keep, delete=True)
    table = Table("what", "MB", "why", box=None)
    for item in found:
        table.add_row(str(item.path.relative_to(place.root)), f"{item.size / 1e6:.1f}", item.why)
    if found:
        terminal.print(table)
    size = sum(item.size for item in found) / 1e6
    verb = "deleted" if options.yes else "could go; --yes deletes them"
    terminal.print(f"{len(found)} files and folders of {size:.1f} MB {verb}")
    return 0


def store_export(arguments: list[str]) -> int:
    """Packs the finished cells and their stages, and says what of them is not here.

    Returns 1 where cells, or the answers of finished ones, are missing; ConfigError where no cell is finished.
    """
    flags = Flags("store export", "experiment=table2 …", needed=True)
    flags.add_argument("file", type=Path, metavar="FILE", help="a new .tar.gz")
    flags.add_argument("--weights", action="store_true", help="adapters, training curves and embedded pairs too")
    options, overrides = flags.split(arguments)
    if options.file.exists() or not options.file.parent.is_dir():
        lack = "is there already; name a new file" if options.file.exists() else "there is no such folder to write to"
        raise ConfigError(f"{options.file}: {lack}")
    place, jobs, terminal = _opened(overrides)
    kinds = KINDS if options.weights else WEIGHTLESS
    finished = [job for job in jobs if job.find() is not None]
    if not finished:
        raise ConfigError(f"none of the {len(jobs)} cells is finished; there is nothing to export")
    count = export(place, _wanted(jobs, kinds), options.file)
    terminal.print(f"{options.file}: {count} entries, {options.file.stat().st_size / 1e6:.1f} MB")
    if missing := len(jobs) - len(finished):
        terminal.print(f"{missing} of {len(jobs)} cells are not finished and therefore not in it")
    if lacking := Counter(kind for kind, key in _wanted(finished, kinds) if place.find(kind, key) is None):
        told = ", ".join(f"{number} of {kind}" for kind, number in sorted(lacking.items()))
        terminal.print(f"not in it, since this store lacks them, is of the finished cells: {told}")
    unanswered = any(not job.is_answered() for job in finished if job.cell.measure is None)
    return int(missing > 0 or unanswered)


def _wanted(jobs: list[Job], kinds: Collection[str]) -> set[tuple[str, str]]:
    """The entries of these kinds that the cells are made of; a published pair is in no store."""
    found = set[tuple[str, str]]()
    for job in jobs:
        elsewhere = {"pairs"} if isinstance(job.cell.model, PretrainedModel) else set[str]()
        found |= {entry for entry in entries(job.cell) if entry[0] in kinds and entry[0] not in elsewhere}
    return found


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


def _opened(overrides: list[str], *, there: bool = True) -> tuple[Store, list[Job], Console]:
    """The store that the words name, their distinct cells, and the terminal."""
    jobs = list(distinct(enumerate_all(overrides).cells).values())
    place = jobs[0].store
    if there and not place.root.is_dir():
        raise ConfigError(f"outputs={place.root}: no such folder")
    return place, jobs, results(soft_wrap=True)
