"""Whether an entry's files are what its manifest says: sizes at every look, SHA-256 where something depends on it.

A manifest lists every file of its entry with size and SHA-256, and carries a SHA-256 of itself, so that a
flipped bit in a score is noticed as well as one in a weight.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, count
from pathlib import Path
from stat import S_ISREG
from typing import Any

from asft.store.errors import DamagedEntry
from asft.store.schemas import Sealed, read_document

MANIFEST = "manifest.json"
DAMAGED = "damaged"  # the folder of what was found damaged
SEAL = "sha256"  # of the manifest without this field


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below ``folder``, by its path relative to it; the manifest is left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in files
    }


def seal(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own SHA-256."""
    return {**manifest, SEAL: _digest_of(manifest)}


def read_manifest(folder: Path, name: str = MANIFEST, schema: Any = Sealed) -> dict[str, Any]:
    """An entry's manifest, the file ``name``.

    Raises:
        DamagedEntry: when it is missing, cannot be read, or is not what was written.
    """
    path = folder / name
    manifest: dict[str, Any] = read_document(path, schema)
    if manifest[SEAL] != _digest_of(manifest):
        raise DamagedEntry(f"{path}: its SHA-256 is not that of what was written")
    return manifest


def check_sizes(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Checks each listed file's size; cheap enough for every look at an entry.

    Raises:
        DamagedEntry: for a file that is missing or has another size.
    """
    for file, wanted in manifest["files"].items():
        path = folder / file
        with _missing_is_damage(path):
            status = path.stat()
        if not S_ISREG(status.st_mode):
            raise DamagedEntry(f"{path}: is no plain file")
        if status.st_size != wanted["size"]:
            raise DamagedEntry(f"{path}: has {status.st_size} bytes, {wanted['size']} were written")


def check_contents(folder: Path, manifest: Mapping[str, Any]) -> None:
    """As :func:`check_sizes`, and compares each listed file's SHA-256."""
    check_sizes(folder, manifest)
    for file, wanted in manifest["files"].items():
        with _missing_is_damage(folder / file):
            found = file_digest(folder / file)
        if found != wanted["sha256"]:
            raise DamagedEntry(f"{folder / file}: its SHA-256 is not that of what was written")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is complete or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def _missing_is_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedEntry(f"{path}: is missing") from None


def own_folders(root: Path, below: str) -> list[Path]:
    """``root/a`` and ``root/a/b`` of ``a/b``."""
    return [root / part for part in accumulate(below.split("/"), "{}/{}".format)]


def set_aside(folder: Path, root: Path, below: str = DAMAGED) -> Path:
    """Moves a damaged folder to ``root/below/NAME-N`` with the first N that is free, and returns where.

    What is set aside stays below ``root``: a link in its way is removed, what it leads to is not touched.
    """
    for shelf in own_folders(root, below):
        if shelf.is_symlink():
            shelf.unlink()
        shelf.mkdir(exist_ok=True)
    target = next(path for n in count(1) if not os.path.lexists(path := shelf / f"{folder.name}-{n}"))
    shutil.move(folder, target)  # a kind's folder may be a link to another disk
    return target


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered within the process for as long as it is the same file with its size and time."""
    status = path.stat()
    return _digest(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(path: Path, inode: int, size: int, mtime: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(manifest: Mapping[str, Any]) -> str:
    text = json.dumps({name: value for name, value in manifest.items() if name != SEAL}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
