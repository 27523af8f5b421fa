"""Results on disk: content keys, atomic commits under a lock, and what is finished.

Layout below the outputs folder::

    pairs/<key>/             a model pair
    anchors/<key>/           an alignment anchor
    stages/start/<key>/      a checkpoint made from the pair, from which methods begin
    stages/mixture/<key>/    training rows
    stages/train/<key>/      an adapter or a model, and its training curve
    stages/generate/<key>/   answers as JSONL
    cells/<key>/             a finished cell: verdicts as JSONL, scores in the manifest
    measures/<key>/          a finished cell that measures something else: numbers in the manifest, arrays beside it
    failures/<key>.json      why a cell failed last time
    damaged/<kind>/<key>-N/  what was found damaged and set aside (an anchor: anchors/damaged/<key>-N/)

Every entry has a ``manifest.json`` with the size and SHA-256 of each of its files. It is written last, into a
temporary folder that is then renamed into place, so an entry either is whole or is not there. Beside an entry
in the making stand, by its key, ``.KEY.lock`` (the operating system's lock, gone with its process; the file stays,
since two that wait for one lock must find one file), ``.KEY.running`` (:mod:`asft.store.heartbeat`), ``.KEY.tmp-PID``
and ``.KEY.resume`` (what an interrupted stage goes on from). Whoever makes, moves or removes an entry holds its lock.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from asft.store.errors import MAKE_ROOM, DamagedEntry, DiskFull, OutOfStep, disk_full
from asft.store.heartbeat import SUFFIX, Beat, Heartbeat, read_beat
from asft.store.integrity import (
    DAMAGED,
    MANIFEST,
    check_contents,
    check_sizes,
    describe_files,
    read_manifest,
    seal,
    set_aside,
    write_whole,
)
from asft.store.meter import PeakMemory
from asft.store.provenance import device_used, git_commit, library_versions
from asft.store.schemas import Reason, check_entry, check_file, read_document
from asft.text import masked, mended

log = logging.getLogger(__name__)
SCHEMA = 1
KINDS = ("pairs", "stages/start", "stages/mixture", "stages/train", "stages/generate", "cells", "beside", "measures")


def content_key(settings: Mapping[str, Any]) -> str:
    """The name of a result: 20 hex digits of the SHA-256 of its settings as canonical JSON."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Entry:
    """A finished result: its folder and its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def result(self) -> dict[str, Any]:
        """What the producer returned: losses, counts, scores."""
        result: dict[str, Any] = self.manifest["result"]
        return result

    @property
    def seconds(self) -> float:
        """Wall time that producing the entry took."""
        return float(self.manifest["seconds"])

    @property
    def cost(self) -> float:
        """The same of a cell with all its stages, shared ones included."""
        return self.seconds + sum(stage["seconds"] for stage in self.result.get("stages", {}).values())

    @property
    def digest(self) -> str:
        """Of its files: another where it was removed and made anew on another device."""
        return content_key(self.manifest["files"])[:12]


@dataclass(frozen=True)
class Store:
    """The outputs folder. Any number of processes may share one."""

    root: Path

    def path(self, kind: str, key: str) -> Path:
        """The folder of an entry, finished or not."""
        return self.root / kind / key

    def read(self, kind: str, key: str, *, whole: bool = False) -> Entry | None:
        """The finished entry, or None where there is none.

        Args:
            whole: look at every byte of it, not only at its manifest and its files' sizes.

        Raises:
            DamagedEntry: naming the file that is not what was written.
            ValueError: when the entry was written by another schema version.
        """
        folder = self.path(kind, key)
        while (seen := _identity(folder)) is not None:
            try:
                return _read(folder, kind, whole)
            except DamagedEntry:
                if _identity(folder) == seen:  # else it was removed, or made anew, while it was read
                    raise
        return None

    def find(self, kind: str, key: str, *, whole: bool = False) -> Entry | None:
        """As :meth:`read`, and None for a damaged entry: it is not finished."""
        with suppress(DamagedEntry):
            return self.read(kind, key, whole=whole)
        return None

    def damage(self, kind: str, key: str) -> str | None:
        """What is wrong with an entry at first look, or None."""
        try:
            self.read(kind, key)
        except DamagedEntry as error:
            return str(error)
        return None

    def ensure(self, kind: str, settings: Mapping[str, Any], produce: Callable[[Path], dict[str, Any]]) -> Entry:
        """The entry of these settings, computed by ``produce(folder)`` only where it is not finished yet.

        ``produce`` writes files into the temporary folder it is handed and returns JSON-able results. While it
        runs, other processes that want the same entry wait; if it raises, nothing is left behind but what it
        keeps in :meth:`resumable`. An entry found damaged is set aside and computed anew.

        Raises:
            DiskFull: when there is no room for the entry.
        """
        key = content_key(settings)
        if entry := self.find(kind, key, whole=True):
            return entry
        final = self.path(kind, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        if beat := self.running(kind, key):
            log.info("waiting for %s/%s, which %s computes", kind, key, beat.where)
        with self.lock(kind, key):
            try:
                if entry := self.read(kind, key, whole=True):
                    return entry
            except DamagedEntry as error:
                log.warning("damaged: %s. Set aside in %s", error, self.set_aside(kind, key))
            for stale in final.parent.glob(f".{key}.tmp-*"):  # its writer died: we hold the lock
                remove(stale)
            scratch = final.parent / f".{key}.tmp-{os.getpid()}"
            try:
                scratch.mkdir()
                manifest = self._produce(kind, key, settings, produce, scratch)
                scratch.replace(final)
            except BaseException as error:
                shutil.rmtree(scratch, ignore_errors=True)
                if disk_full(error) and not isinstance(error, OutOfStep):  # that one must end the program
                    raise DiskFull(
                        f"outputs={self.root}: no room left for {kind}/{key} ({error}). {MAKE_ROOM}"
                    ) from error
                raise
            shutil.rmtree(self.resumable(kind, key), ignore_errors=True)
        return Entry(final, manifest)

    def _produce(
        self,
        kind: str,
        key: str,
        settings: Mapping[str, Any],
        produce: Callable[[Path], dict[str, Any]],
        folder: Path,
    ) -> dict[str, Any]:
        """Computes an entry into ``folder`` and describes it in a manifest, which is returned."""
        with Heartbeat(self.root / kind / f".{key}{SUFFIX}", kind.rpartition("/")[2]), PeakMemory() as memory:
            started = time.perf_counter()
            result = produce(folder)
            seconds = time.perf_counter() - started
        manifest = {
            "schema": SCHEMA,
            "kind": kind,
            "key": key,
            "settings": settings,
            "result": result,
            "seconds": round(seconds, 3),
            "peak_memory_mb": round(memory.host_mb, 1),
            "gpu_peak_memory_mb": round(memory.gpu_mb, 1),
            "host": socket.gethostname(),
            "device": device_used(),
            "versions": library_versions(),
            "commit": git_commit(),
            "created": _now(),
            "files": describe_files(folder),
        }
        as_read = json.loads(mended(json.dumps(manifest, ensure_ascii=False)))  # tuples are lists
        write_json(folder / MANIFEST, seal(as_read))
        return _read(folder, kind, whole=True).manifest  # what could not be read again is not kept

    def lock(self, kind: str, key: str, timeout: float = -1) -> FileLock:
        """The lock of an entry, or of a cell where ``key`` ends in ``.claim``; ``timeout`` 0 does not wait."""
        return FileLock(self.root / kind / f".{key}.lock", timeout=timeout)

    def gate(self) -> FileLock:
        """Held by who removes entries that others may use; a cell that is taken passes it once."""
        return FileLock(self.root / ".gate.lock")

    def resumable(self, kind: str, key: str) -> Path:
        """A folder for what an unfinished stage can go on from; it outlives its process, not the finished entry."""
        return self.root / kind / f".{key}.resume"

    def running(self, kind: str, key: str) -> Beat | None:
        """Who is computing an entry, or None."""
        return read_beat(self.root / kind / f".{key}{SUFFIX}")

    def working(self, cell: str) -> Beat | None:
        """Who works on a cell, with the stage that is at work; None when nobody does."""
        whole = self.running("cells", f"{cell}.claim")
        if whole is None:
            return None
        return self.latest().get(cell) or whole  # its worker may have just let go

    def interrupted(self, cell: str) -> Beat | None:
        """How far a cell was that nobody works on any more; None where none was begun."""
        return self.latest(alive=False).get(cell)

    def latest(self, *, alive: bool = True) -> dict[str, Beat]:
        """The latest beat by cell, of those at work or of those that were interrupted; reads every kind's folder."""
        paths = (path for kind in KINDS for path in (self.root / kind).glob(f".*{SUFFIX}"))
        beats = filter(None, (read_beat(path, alive=alive) for path in paths))
        return {beat.cell: beat for beat in sorted(beats, key=lambda beat: beat.started)}

    @contextmanager
    def claim(self, key: str, *, wait: bool) -> Iterator[bool]:
        """Takes a cell for this process, so that several sweeps over one folder share its cells out.

        Yields whether the cell is ours; with ``wait`` it always is, once whoever has it lets go.
        """
        folder = self.root / "cells"
        folder.mkdir(parents=True, exist_ok=True)
        lock = self.lock("cells", f"{key}.claim", -1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            with self.gate():  # no entry is removed from here on
                pass
            with Heartbeat(folder / f".{key}.claim{SUFFIX}", "between stages", key):
                yield True
        finally:
            lock.release()

    def set_aside(self, kind: str, key: str) -> Path:
        """Moves a damaged entry, whose lock is held, to ``damaged/`` and returns where; a run computes it anew."""
        return set_aside(self.path(kind, key), self.root, f"{DAMAGED}/{kind}")

    def record_failure(self, key: str, message: str, config: Mapping[str, Any], traceback: str) -> None:
        """Keeps why a cell failed until it succeeds."""
        told = {"message": masked(message), "traceback": masked(traceback)}
        text = as_json({"key": key, "time": _now(), "config": config, **told})
        write_whole(self.root / "failures" / f"{key}.json", text)

    def clear_failure(self, key: str) -> None:
        """Forgets an earlier failure of a cell that is about to run again."""
        (self.root / "failures" / f"{key}.json").unlink(missing_ok=True)

    def failure(self, key: str) -> str | None:
        """Why the cell failed last time, or None."""
        path = self.root / "failures" / f"{key}.json"
        try:
            return read_document(path, Reason)["message"] if path.exists() else None
        except DamagedEntry as error:
            return f"unknown: damaged: {error}"


def _read(folder: Path, kind: str, whole: bool) -> Entry:
    if not folder.is_dir():
        raise DamagedEntry(f"{folder}: is no folder")
    manifest = read_manifest(folder)
    if (schema := manifest.get("schema")) != SCHEMA:
        raise ValueError(
            f"{folder}: written with store schema {schema!r:.20}, this version reads {SCHEMA}. "
            "Choose another outputs= folder, or move this one away to compute it anew."
        )
    check_entry(folder, kind, manifest)
    check_sizes(folder, manifest)
    if whole:
        check_contents(folder, manifest)
        for file in manifest["files"]:
            check_file(folder, kind, file)
    return Entry(folder, manifest)


def as_json(value: Any) -> str:
    """Indented JSON with a final newline."""
    return mended(json.dumps(value, indent=1, ensure_ascii=False)) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(as_json(value), encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(mended(json.dumps(row, ensure_ascii=False)) + "\n")


def remove(path: Path) -> None:
    """Deletes a file, a folder with all that is in it, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tells an entry from the next one in its place; None where there is none."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
