"""Results on disk: content keys, atomic commits under a lock, and what is finished.

Layout below the outputs folder::

    pairs/<key>/             a model pair
    anchors/<key>/           an alignment anchor
    stages/mixture/<key>/    training rows
    stages/train/<key>/      an adapter or a model, and its training curve
    stages/generate/<key>/   answers as JSONL
    cells/<key>/             a finished cell: verdicts as JSONL, scores in the manifest
    measures/<key>/          a finished cell that measures something else: numbers in the manifest, arrays beside it
    failures/<key>.json      why a cell failed last time

Every entry has a ``manifest.json``. It is written last, into a temporary folder that is then renamed into
place, so an entry either is whole or is not there.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

SCHEMA = 1
MANIFEST = "manifest.json"
DETAILS = "details.json"  # arrays behind a measure's numbers
HARMFUL_FILE, TASK_FILE = "harmful.jsonl", "task.jsonl"  # answers and verdicts, by what was asked
CONFIG_FILE, HISTORY_FILE = "config.json", "history.jsonl"  # a cell's resolved configuration, a training's logs
_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "hydra-core", "asft-lab")


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


@dataclass(frozen=True)
class Store:
    """The outputs folder. Any number of processes may share one."""

    root: Path

    def path(self, kind: str, key: str) -> Path:
        """The folder of an entry, finished or not."""
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Entry | None:
        """The finished entry, or None.

        Raises:
            ValueError: when the entry was written by another schema version.
        """
        folder = self.path(kind, key)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except FileNotFoundError:
            return None
        if manifest.get("schema") != SCHEMA:
            raise ValueError(
                f"{folder}: written with store schema {manifest.get('schema')}, this version reads {SCHEMA}. "
                "Choose another outputs= folder, or move this one away to compute it anew."
            )
        return Entry(folder, manifest)

    def ensure(self, kind: str, settings: Mapping[str, Any], produce: Callable[[Path], dict[str, Any]]) -> Entry:
        """The entry of these settings, computed by ``produce(folder)`` only where it is not finished yet.

        ``produce`` writes files into the temporary folder it is handed and returns JSON-able results. While it
        runs, other processes that want the same entry wait; if it raises, nothing is left behind.
        """
        key = content_key(settings)
        if entry := self.find(kind, key):
            return entry
        final = self.path(kind, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.parent / f".{key}.lock"):
            if entry := self.find(kind, key):
                return entry
            for stale in final.parent.glob(f".{key}.tmp-*"):  # its writer died: we hold the lock
                shutil.rmtree(stale)
            scratch = final.parent / f".{key}.tmp-{os.getpid()}"
            scratch.mkdir()
            try:
                started = time.perf_counter()
                result = produce(scratch)
                manifest = _manifest(kind, key, settings, result, time.perf_counter() - started)
                write_json(scratch / MANIFEST, manifest)
                scratch.replace(final)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
        entry = self.find(kind, key)
        assert entry is not None, "an entry just renamed into place must be there"
        return entry

    def record_failure(self, key: str, message: str, config: Mapping[str, Any], traceback: str) -> None:
        """Keeps why a cell failed until it succeeds."""
        folder = self.root / "failures"
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".{key}.{os.getpid()}"
        write_json(scratch, {"key": key, "message": message, "time": _now(), "config": config, "traceback": traceback})
        scratch.replace(folder / f"{key}.json")

    def clear_failure(self, key: str) -> None:
        """Forgets an earlier failure of a cell that is about to run again."""
        (self.root / "failures" / f"{key}.json").unlink(missing_ok=True)

    def failure(self, key: str) -> str | None:
        """Why the cell failed last time, or None."""
        try:
            message: str = json.loads((self.root / "failures" / f"{key}.json").read_text())["message"]
        except FileNotFoundError:
            return None
        return message


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line."""
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the objects of a JSONL file."""
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def library_versions() -> dict[str, str]:
    """Versions of what can change a number, Python included."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
            continue
    return found


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with ``+`` when it has changes; None elsewhere."""
    here = Path(__file__).parent.parent
    if not (here / ".git").exists():
        return None
    try:
        run = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True)
        commit = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        return commit + ("+" if run(["git", "status", "--porcelain"]).stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _manifest(
    kind: str, key: str, settings: Mapping[str, Any], result: dict[str, Any], seconds: float
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": kind,
        "key": key,
        "settings": settings,
        "result": result,
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "versions": library_versions(),
        "commit": git_commit(),
        "created": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
