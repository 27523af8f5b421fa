"""Looking after an outputs folder: checking every entry, and removing what can go.

Whatever is moved or removed is looked at again under the lock that its users hold, so that nothing is taken away from
a run at work, and nothing that was made anew meanwhile. Links are never followed: a kind's folder, or ``damaged``,
that is a link is left alone, and of an entry that is one the link alone goes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from asft.store.anchors import read_meta
from asft.store.archive import SCRATCH
from asft.store.entries import KINDS, Store, remove
from asft.store.errors import DamagedEntry
from asft.store.heartbeat import SUFFIX
from asft.store.integrity import DAMAGED, own_folders

# The folder of cached anchors, which are no entries of the store; they belong to a pair, and no experiment names them.
ANCHORS = "anchors"
UNNAMED = "not named by this experiment"
_KEY, _ANCHOR = re.compile(r"[0-9a-f]{20}"), re.compile(r"[0-9a-f]{32}")
_BESIDE = re.compile(
    rf"\.(?P<key>[0-9a-f]{{20}})(?P<claim>\.claim)?(?P<what>{re.escape(SUFFIX)}(-\d+)?|\.resume|\.tmp-\d+)"
)
Named = Collection[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at every byte found: how many entries are whole, and (kind, key, reason) of damage."""

    whole: int
    damaged: list[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Removable:
    """A file or folder that can go, and why."""

    path: Path
    why: str
    size: int


def verify(store: Store) -> Verified:
    """Hashes every file of every entry and of every anchor.

    Raises:
        ValueError: for an entry of another schema version.
    """
    whole, damaged = 0, []
    for kind, key in (*_entries(store), *_named(store, ANCHORS, _ANCHOR)):
        try:
            whole += _there(store, kind, key)
        except DamagedEntry as error:
            damaged.append((kind, key, str(error)))
    return Verified(whole, damaged)


def set_damaged_aside(store: Store, kind: str, key: str) -> Path | None:
    """Moves a damaged entry to ``damaged/``; None where it is being made anew or was meanwhile, or lies elsewhere."""
    if not _is_ours(store, kind):
        return None
    lock = FileLock(f"{store.path(kind, key)}.lock", timeout=0) if kind == ANCHORS else store.lock(kind, key, 0)
    with _free(lock) as free:
        if not free:
            return None
        try:
            _there(store, kind, key)
        except DamagedEntry:
            return store.set_aside(kind, key)
    return None


def clean(store: Store, named: Named | None, *, delete: bool) -> list[Removable]:
    """What interrupted runs left behind, what was set aside, and entries that ``named`` does not hold.

    Args:
        named: (kind, key) of the entries to keep; None keeps all of them, and so does a cell that anyone works on. With
            a cell stay the scores beside it, which its key does not hold, and their answers.
        delete: remove them, too.
    """
    found: list[Removable] = []

    def take(path: Path, why: str, aside: Path | None = None) -> None:
        try:
            found.append(Removable(path, why, _size(path)))
        except FileNotFoundError:  # gone by itself
            return
        if delete:
            remove(path.replace(aside) if aside else path)

    with FileLock(store.root / ".gc.lock"):  # two would remove one thing at once
        kinds = [kind for kind in KINDS if _is_ours(store, kind)]
        for kind in kinds:
            for path in sorted((store.root / kind).glob(".*")):
                if match := _BESIDE.fullmatch(path.name):
                    key = match["key"]
                    names = (key, f"{key}.claim") if kind == "cells" else (key,)
                    with _free(*(store.lock(kind, name, 0) for name in names)) as free:
                        if free and _is_left(store, kind, key, match["what"], named):
                            take(path, "of no use to any run at work")
        for shelf in (*(f"{DAMAGED}/{kind}" for kind in (*KINDS, ANCHORS)), f"{ANCHORS}/{DAMAGED}"):
            if _is_ours(store, shelf):
                for path in sorted((store.root / shelf).glob("*-*")):
                    take(path, "found damaged and set aside")
        if _is_ours(store, ANCHORS):
            for path in sorted((store.root / ANCHORS).glob(".*.partial")):
                with _free(FileLock(path.with_name(f"{path.stem[1:]}.lock"), timeout=0)) as free:
                    if free:
                        take(path, "an anchor that nobody builds any more")
        if os.path.lexists(scratch := store.root / SCRATCH):
            with _free(FileLock(f"{scratch}.lock", timeout=0)) as free:
                if free:
                    take(scratch, "left behind by an interrupted import")
        if named is not None:
            with store.gate():
                keep = {*named, *_beside(store, named)}
                unnamed = [] if at_work(store) else [entry for entry in _entries(store) if entry not in keep]
                for kind, key in unnamed:
                    with _free(store.lock(kind, key, 0)) as free:
                        if free and kind in kinds:  # half an entry is never seen, should this be interrupted
                            path = store.path(kind, key)
                            take(path, UNNAMED, path.with_name(f".{key}.tmp-0"))
    return found


def at_work(store: Store) -> bool:
    """Whether anyone works on a cell, and may use any entry for it."""
    for path in (store.root / "cells").glob(".*.claim.lock"):
        with _free(FileLock(path, timeout=0)) as free:
            if not free:
                return True
    return False


@contextmanager
def _free(*locks: FileLock) -> Iterator[bool]:
    """Whether nobody else has one of the locks, which are held as long as the block lasts."""
    with ExitStack() as held:
        try:
            for lock in locks:
                held.enter_context(lock)
            free = True
        except Timeout:
            free = False
        yield free


def _there(store: Store, kind: str, key: str) -> bool:
    """Whether an entry or an anchor is there, after a look at every byte of it."""
    if kind != ANCHORS:
        return store.read(kind, key, whole=True) is not None
    if there := os.path.lexists(folder := store.path(kind, key)):
        read_meta(folder)
    return there


def _is_left(store: Store, kind: str, key: str, what: str, named: Named | None) -> bool:
    """What an unfinished stage would go on from stays while it is wanted; everything else is left behind."""
    if what != ".resume":
        return True
    return store.find(kind, key) is not None or (named is not None and (kind, key) not in named)


def _beside(store: Store, named: Named) -> Iterator[tuple[str, str]]:
    """The scores beside the cells that are named, whatever else the words say of them, and the answers they are of."""
    for kind, key in _named(store, "beside", _KEY):
        settings = entry.manifest["settings"] if (entry := store.find(kind, key)) else {}
        if ("cells", settings.get("cell")) in named:
            yield kind, key
            yield "stages/generate", settings.get("answers", "")


def _is_ours(store: Store, below: str) -> bool:
    """Whether this folder of the store is there, not as a link to one elsewhere."""
    return all(path.is_dir() and not path.is_symlink() for path in own_folders(store.root, below))


def _entries(store: Store) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        yield from _named(store, kind, _KEY)


def _named(store: Store, kind: str, name: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for path in sorted((store.root / kind).glob("*")):
        if name.fullmatch(path.name):
            yield kind, path.name


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,)
    return sum(file.lstat().st_size for file in files if file.is_symlink() or not file.is_dir())
