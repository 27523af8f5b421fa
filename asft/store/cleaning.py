"""Looking after an outputs folder: checking every entry, and finding what can go."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from asft.store.anchors import DAMAGED, read_meta
from asft.store.entries import KINDS, Store
from asft.store.heartbeat import SUFFIX
from asft.store.integrity import DamagedEntry

# The folder of cached anchors, which are no entries of the store; they belong to a pair, and no experiment names them.
ANCHORS = "anchors"
_KEY, _ANCHOR = re.compile(r"[0-9a-f]{20}"), re.compile(r"[0-9a-f]{32}")
_BESIDE = re.compile(
    rf"\.(?P<key>[0-9a-f]{{20}})(?P<claim>\.claim)?(?P<what>\.lock|{re.escape(SUFFIX)}(-\d+)?|\.resume|\.tmp-\d+)"
)


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
            if kind == ANCHORS:
                read_meta(store.path(kind, key))
            else:
                store.read(kind, key, whole=True)
            whole += 1
        except DamagedEntry as error:
            damaged.append((kind, key, str(error)))
    return Verified(whole, damaged)


def removable(store: Store, named: Collection[tuple[str, str]] | None) -> Iterator[Removable]:
    """What interrupted runs left behind, what was set aside, and entries that ``named`` does not hold.

    Args:
        named: (kind, key) of the entries to keep; None keeps all of them.
    """
    for kind in KINDS:
        for path in sorted((store.root / kind).glob(".*")):
            match = _BESIDE.fullmatch(path.name)
            if match and _is_left(store, kind, match["key"], match["what"], named) and _free(path, match["key"]):
                yield Removable(path, "of no use to any run at work", _size(path))
    for path in sorted([*(store.root / "damaged").glob("*"), *(store.root / ANCHORS / DAMAGED).glob("*")]):
        yield Removable(path, "found damaged and set aside", _size(path))
    for path in sorted(store.root.glob(".import-*")):
        yield Removable(path, "left behind by an interrupted import", _size(path))
    for kind, key in _entries(store):
        if named is not None and (kind, key) not in named and _free(store.path(kind, key), key):
            yield Removable(store.path(kind, key), "not named by this experiment", _size(store.path(kind, key)))


def remove(found: Removable) -> None:
    """Deletes it."""
    if found.path.is_dir():
        shutil.rmtree(found.path)
    else:
        found.path.unlink(missing_ok=True)


def _is_left(store: Store, kind: str, key: str, what: str, named: Collection[tuple[str, str]] | None) -> bool:
    """What an unfinished stage would go on from stays while it is wanted; everything else is left behind."""
    if what != ".resume":
        return True
    return store.find(kind, key) is not None or (named is not None and (kind, key) not in named)


def _free(path: Path, key: str) -> bool:
    """Whether nobody works on the entry; a lock file that is held tells."""
    for name in (f".{key}.lock", f".{key}.claim.lock"):
        lock_file = path.parent / name
        if not lock_file.exists():
            continue
        try:
            with FileLock(lock_file, timeout=0):
                pass
        except Timeout:
            return False
    return True


def _entries(store: Store) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        yield from _named(store, kind, _KEY)


def _named(store: Store, kind: str, name: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for path in sorted((store.root / kind).glob("*")):
        if path.is_dir() and name.fullmatch(path.name):
            yield kind, path.name


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
