"""SHA-256 of files that keys name by content; a large file is read once as long as it does not change."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from asft.store import integrity
from asft.store.errors import DamagedEntry
from asft.store.schemas import Sha256, read_document

_LARGE = 2**26  # bytes from which on a digest is worth remembering between processes


def file_digest(path: Path) -> str:
    """The file's SHA-256. Its time of change only tells whether it must be read again, and enters no key."""
    stat = path.stat()
    if stat.st_size < _LARGE:
        return integrity.file_digest(path)
    place = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    if known := _remembered().get(place):
        return known
    found = integrity.file_digest(path)
    _remember(place, found)
    return found


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asft" / "digests.json"


def _remembered() -> dict[str, str]:
    with suppress(OSError, DamagedEntry):
        return read_document(_memory(), dict[str, Sha256])
    return {}


def _remember(place: str, digest: str) -> None:
    with suppress(OSError):  # where it cannot be written, the file is read again next time
        integrity.write_whole(_memory(), json.dumps({**_remembered(), place: digest}))
