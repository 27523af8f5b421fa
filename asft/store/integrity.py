"""Whether an entry's files are what its manifest says: sizes at every look, SHA-256 where something depends on it.

A manifest lists every file of its entry with size and SHA-256, and carries a SHA-256 of itself, so that a
flipped bit in a score is noticed as well as one in a weight.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
SEAL = "sha256"  # of the manifest without this field


class DamagedEntry(ValueError):
    """An entry that does not hold what was written; the message names the file and what is wrong with it."""


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


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """An entry's manifest, the file ``name``.

    Raises:
        DamagedEntry: when it is missing, cannot be read, or is not what was written.
    """
    path = folder / name
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise DamagedEntry(f"{path}: is missing") from None
    except ValueError as error:  # neither UTF-8 nor JSON
        raise DamagedEntry(f"{path}: is not JSON ({error})") from None
    if not isinstance(manifest, dict):
        raise DamagedEntry(f"{path}: is not a manifest")
    if not {"files", SEAL} <= manifest.keys():
        raise DamagedEntry(f"{path}: has no checksums")
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
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DamagedEntry(f"{path}: is missing") from None
        if size != wanted["size"]:
            raise DamagedEntry(f"{path}: has {size} bytes, {wanted['size']} were written")


def check_contents(folder: Path, manifest: Mapping[str, Any]) -> None:
    """As :func:`check_sizes`, and compares each listed file's SHA-256."""
    check_sizes(folder, manifest)
    for file, wanted in manifest["files"].items():
        if file_digest(folder / file) != wanted["sha256"]:
            raise DamagedEntry(f"{folder / file}: its SHA-256 is not that of what was written")


def set_aside(folder: Path, shelf: Path) -> Path:
    """Moves a damaged folder onto ``shelf``, as ``NAME-N`` with the first N that is free, and returns where."""
    shelf.mkdir(parents=True, exist_ok=True)
    target = next(path for n in itertools.count(1) if not (path := shelf / f"{folder.name}-{n}").exists())
    folder.replace(target)
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
