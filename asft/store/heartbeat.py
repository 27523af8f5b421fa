"""Who is working on what: a small file beside an entry that its worker renews every few seconds.

The lock that keeps two workers apart is the operating system's and vanishes with its process. The heartbeat is
for people and for ``asft status``: host, process, since when, and how far.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Lt

from asft.store.errors import DamagedEntry
from asft.store.schemas import Moment, read_document

EVERY = 5.0  # seconds between two beats
STALE = 60.0  # seconds without a beat after which a worker on another host counts as dead
SUFFIX = ".running"
_SAME = 3.0  # seconds between two readings of one process' start, whose clock may have been set


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker last said: it has done ``done`` of ``total`` units (steps, answers); 0 of 0 says nothing.

    ``born`` is when its process started, in seconds since 1970: a number is given to one process after another.
    """

    host: str
    pid: Annotated[int, Ge(1), Lt(2**31)]
    born: float
    started: Moment
    stage: str
    cell: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    before: int = 0  # done when the first word of these units came, in a batch or taken over from an interrupted run
    since: Moment | None = None  # when it came: what loads a model is not of the units' pace
    latest: Moment | None = None  # when the last one came

    @property
    def where(self) -> str:
        """Host and process."""
        return f"{self.host}:{self.pid}"

    @property
    def progress(self) -> str:
        """The stage and how far it is, where that is known."""
        return f"{self.stage} {self.unit} {self.done} of {self.total}" if self.total else self.stage

    @property
    def seconds_left(self) -> float | None:
        """What the units at work may still take, where that is known; a stage may go on to others."""
        made = self.done - self.before
        if made <= 0 or not self.since or not self.latest:
            return None
        ahead = (_ago(self.since) - _ago(self.latest)) / made * (self.total - self.done)
        return max(0.0, ahead - _ago(self.latest))

    @property
    def spent(self) -> float:
        """Seconds since the stage began."""
        return _ago(self.started)


def _ago(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")  # two of one cell have an order


class Heartbeat:
    """Keeps a beat file fresh from a thread for as long as the ``with`` block lasts.

    A beat inside another one works for the same cell, unless it names one. What is interrupted leaves its last beat.
    """

    def __init__(self, path: Path, stage: str, cell: str = "") -> None:
        cell = cell or (_open[-1].beat.cell if _open else "")
        self.path = path
        pid = os.getpid()
        self.beat: Beat = Beat(socket.gethostname(), pid, _born(pid) or 0.0, _now(), stage, cell)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread.start()
        _open.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _open.remove(self)
        self._over.set()
        self._thread.join()
        if kind is None or issubclass(kind, Exception):
            self.path.unlink(missing_ok=True)
        else:
            self.beat = replace(self.beat, born=0.0)  # of no process, though this one may go on
            self._write()

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            self._write()

    def _write(self) -> None:
        """Replaces the file whole; a full disk silences the heartbeat and hurts nothing else."""
        scratch = self.path.with_name(f"{self.path.name}-{os.getpid()}")
        try:
            scratch.write_text(json.dumps(asdict(self.beat)))
            scratch.replace(self.path)
        except OSError:
            scratch.unlink(missing_ok=True)


_open: list[Heartbeat] = []  # innermost last: a stage may need another one made first


def tell(done: int, total: int, unit: str) -> None:
    """Says how far the stage at work is; without a stage at work nobody is told."""
    if _open:
        beat = _open[-1].beat
        if (beat.total, beat.unit) != (total, unit) or done < beat.done:  # other units, or as many anew
            beat = replace(beat, total=total, unit=unit, before=done, since=_now())
        _open[-1].beat = replace(beat, done=done, latest=_now())


def read_beat(path: Path, *, alive: bool = True) -> Beat | None:
    """The beat of a worker that is alive, or that is not; None where there is no such beat.

    On this host the process table decides; on another the age of the last beat does, by the file's time on the
    shared folder.
    """
    try:
        beat = read_document(path, Beat)
        age = time.time() - path.stat().st_mtime
    except (OSError, DamagedEntry):
        return None
    if beat.host == socket.gethostname():
        born = _born(beat.pid)
        lives = born is not None and abs(born - beat.born) < _SAME
    else:
        lives = age < STALE
    return beat if lives is alive else None


def _born(pid: int) -> float | None:
    """When a process started, in seconds since 1970; None where it has ended."""
    import psutil  # type: ignore[import-untyped]

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None
