"""A finished table as one file: exporting entries of the store, and importing them from someone not trusted.

An archive is a gzipped tar (PAX, which knows no largest file) of ``<kind>/<key>/<file>`` and nothing else. Both ways
it is streamed. On import every name, type and size is checked before a byte is written, every entry's checksums before
it is renamed into place. What says who computed an entry, and in which folders, stays here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from filelock import FileLock

from asft.config import passed_on
from asft.store.entries import KINDS, Entry, Store, as_json, content_key, remove
from asft.store.errors import DamagedEntry
from asft.store.integrity import MANIFEST, SEAL, seal
from asft.store.schemas import CONFIG_FILE, Config, read_document

# What a report and a new judgement need.
WEIGHTLESS = ("stages/mixture", "stages/generate", "cells", "beside", "measures")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}"
_NAME = re.compile(rf"({'|'.join(KINDS)})/([0-9a-f]{{20}})/({_PART}(?:/{_PART}){{0,3}})")
_CHUNK = 256 * 1024  # bytes read at a time
_HEADERS = 2 * _CHUNK  # bytes a member's tar headers and padding may take, and what was read ahead of them
SCRATCH = ".import"  # the folder that an import unpacks into
MAX_FILES = 200_000
MAX_GB = 20.0


class HostileArchive(ValueError):
    """An archive that is not what ``asft store export`` writes; nothing of it was kept."""


@dataclass(frozen=True, slots=True)
class Imported:
    """How many entries an import brought, and how many were here already."""

    new: int
    known: int


def export(store: Store, entries: Iterable[tuple[str, str]], file: Path) -> int:
    """Writes the finished entries to ``file`` and returns how many there were.

    Raises:
        DamagedEntry: when one of them is not what was written.
    """
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    count = 0
    try:
        # dereference: a file with two names (two pairs' base) is written twice, for links are refused on import.
        with tarfile.open(scratch, "w:gz", format=tarfile.PAX_FORMAT, dereference=True) as archive:
            for kind, key in sorted(entries):
                if (entry := store.read(kind, key, whole=True)) is None:
                    continue
                count += 1
                try:
                    others = _for_others(entry, kind)
                    for name, data in others.items():
                        info = _anonymous(tarfile.TarInfo(f"{kind}/{key}/{name}"))
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
                    for name in [name for name in entry.manifest["files"] if name not in others]:
                        archive.add(entry.path / name, f"{kind}/{key}/{name}", recursive=False, filter=_anonymous)
                    now = store.read(kind, key)
                except FileNotFoundError:
                    now = None
                if now is None or now.manifest != entry.manifest:
                    raise DamagedEntry(f"{entry.path}: was removed or changed while it was exported; export again")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
    return count


def import_archive(store: Store, file: Path, *, max_gb: float = MAX_GB, max_files: int = MAX_FILES) -> Imported:
    """Brings the entries of an archive into the store.

    Raises:
        HostileArchive: naming the member that no export of ours would hold, or the limit that was passed.
        DamagedEntry: for an entry whose files are not those of its manifest.
        ValueError: for one of another schema version.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    scratch = store.root / SCRATCH
    with FileLock(f"{scratch}.lock"):
        remove(scratch)  # left behind by an import that was killed
        try:
            keys = _unpack(file, scratch, round(max_gb * 1e9), max_files)
            for kind, key in keys:
                _check_entry(scratch, kind, key)
            new = sum(_place(store, scratch / kind / key, kind, key) for kind, key in keys)
            return Imported(new, len(keys) - new)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _unpack(file: Path, target: Path, max_bytes: int, max_files: int) -> list[tuple[str, str]]:
    """Writes the members below ``target`` by names that were checked, and returns their entries."""
    seen: dict[str, tuple[str, str]] = {}
    total = 0

    def admitted(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal total
        stream.allow(max(0, member.size))
        entry, total = _entry_of(member), total + member.size
        if member.name in seen:
            raise HostileArchive(f"{member.name!r}: comes twice")
        if len(seen) >= max_files:
            raise HostileArchive(f"{file}: more than {max_files} files; raise --max-files if you trust it")
        if total > max_bytes:
            raise HostileArchive(f"{file}: more than {max_bytes / 1e9:g} GB unpacked; raise --max-gb if you trust it")
        seen[member.name] = entry
        return tarfile.data_filter(member, path).replace(mode=cast(int, None), mtime=cast(float, None), deep=False)

    try:
        with gzip.open(file) as unzipped:
            stream = _Limited(unzipped)
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=_CHUNK) as archive:
                archive.extractall(target, filter=admitted)
    except HostileArchive:
        raise
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise HostileArchive(f"{file}: not an archive of `asft store export` ({error})") from error
    except (OSError, MemoryError):  # this machine's, not the file's
        raise
    except Exception as error:  # whatever tarfile makes of headers that contradict themselves, or follow without end
        raise HostileArchive(f"{file}: not an archive of `asft store export` (its headers are broken)") from error
    return list(dict.fromkeys(seen.values()))


class _Limited:
    """A stream that refuses to give more than was allowed: headers cannot grow without end."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream, self.left = stream, _HEADERS  # the first member is read on opening

    def allow(self, size: int) -> None:
        """Allows the next member's headers and ``size`` bytes of content."""
        self.left = size + _HEADERS  # what earlier members left over does not add up

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise HostileArchive("the archive's headers are larger than any that `asft store export` writes")
        return data


def _entry_of(member: tarfile.TarInfo) -> tuple[str, str]:
    """Kind and key of the entry that a member belongs to.

    Raises:
        HostileArchive: for anything but a plain file of the form KIND/KEY/FILE.
    """
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse() or member.size < 0:
        raise HostileArchive(f"{member.name!r}: not a plain file; links, folders and devices have no place here")
    match = _NAME.fullmatch(member.name)
    if match is None:
        raise HostileArchive(f"{member.name!r}: not of the form KIND/KEY/FILE with KIND one of {', '.join(KINDS)}")
    return match[1], match[2]


def _check_entry(scratch: Path, kind: str, key: str) -> None:
    folder = scratch / kind / key
    entry = Store(scratch).read(kind, key, whole=True)
    assert entry is not None, "it was unpacked just now"
    manifest = entry.manifest
    if (manifest["kind"], manifest["key"]) != (kind, key) or content_key(manifest["settings"]) != key:
        raise DamagedEntry(f"{kind}/{key}: its manifest is that of another entry")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if there != {*manifest["files"], MANIFEST}:
        raise DamagedEntry(f"{kind}/{key}: holds other files than its manifest lists")


def _place(store: Store, folder: Path, kind: str, key: str) -> bool:
    """Renames a checked entry into place; one that is here already stays, a damaged one gives way."""
    final = store.path(kind, key)
    final.parent.mkdir(parents=True, exist_ok=True)
    with store.lock(kind, key):
        try:
            if store.read(kind, key, whole=True):
                return False
        except DamagedEntry:
            store.set_aside(kind, key)
        beside = final.with_name(f".{key}.tmp-{os.getpid()}")
        remove(beside)
        shutil.move(folder, beside)  # a kind's folder may be a link to another disk
        beside.replace(final)
    return True


def _for_others(entry: Entry, kind: str) -> dict[str, bytes]:
    """The manifest without the host, and a cell's configuration without how it was run, by file; sealed anew."""
    manifest = {name: value for name, value in entry.manifest.items() if name not in {"host", SEAL}}
    files, made = dict(manifest["files"]), dict[str, bytes]()
    if kind in {"cells", "measures"} and CONFIG_FILE in files:
        config = read_document(entry.path / CONFIG_FILE, Config)
        made[CONFIG_FILE] = as_json({**passed_on(config), "device": config["device"]}).encode()  # times are told by it
        digest = hashlib.sha256(made[CONFIG_FILE]).hexdigest()
        files[CONFIG_FILE] = {"size": len(made[CONFIG_FILE]), "sha256": digest}
    return {**made, MANIFEST: as_json(seal({**manifest, "files": files})).encode()}


def _anonymous(member: tarfile.TarInfo) -> Any:
    """Leaves out who owns the file here."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member
