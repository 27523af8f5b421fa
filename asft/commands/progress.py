"""Where the cells of a sweep stand and how long the rest may take, and the one progress display of a run.

All is read from the store, so it is the same whatever launcher does the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from statistics import fmean

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from asft.cells.job import CellState, Job, state_of
from asft.console import console
from asft.store.entries import Store
from asft.store.heartbeat import SUFFIX, read_beat

_LOOK_EVERY, _TELL_EVERY = 1.0, 30.0  # seconds


def seconds_left(states: Mapping[str, CellState]) -> float | None:
    """An estimate from what finished cells of the same method took, else of the same kind, shared among those at work.

    A cell at work has that less what it has spent on its stage, but no less than the stage says of itself; the whole
    takes no less than any of these. None where nothing is left, or of a cell that is left no like has finished: what
    is measured, trained, or only asked costs by its own measure. A failed cell is not tried again by itself.
    """
    costs: dict[object, list[float]] = {}
    for state in states.values():
        if state.entry:
            for likeness in (state.name, _kind(state)):
                costs.setdefault(likeness, []).append(state.entry.cost)
    left = [state for state in states.values() if state.standing not in ("done", "failed")]
    if not left or not all(_kind(state) in costs for state in left):
        return None
    ends, waiting = list[float](), 0.0
    for state in left:
        usual = fmean(costs.get(state.name, costs[_kind(state)]))
        if state.beat:
            ends.append(max(usual - state.beat.spent, state.beat.seconds_left or 0.0))
        else:
            waiting += usual
    return max((sum(ends) + waiting) / max(1, len(ends)), *ends, 1.0)


def _kind(state: CellState) -> tuple[bool, bool]:
    return state.cell.measure is not None, state.cell.method.trains


def time_left(states: Mapping[str, CellState]) -> str:
    """The one estimate that is shown: of all cells, or where they tell none of the units that alone are at work."""
    if left := seconds_left(states):
        return f"about {duration(left)} left"
    alone = [state.beat for state in states.values() if state.beat]
    left = alone[0].seconds_left if len(alone) == 1 else None
    return "" if left is None else f"about {duration(left)} left of these {alone[0].total} {alone[0].unit}s"


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class SweepProgress:
    """Shows cells done, the stages at work and the time left for as long as the ``with`` block lasts.

    On a terminal it is one line that is renewed; elsewhere a plain line now and then, where something changed.
    """

    unit = "cells"

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self.jobs = dict(jobs)
        self.states: dict[str, CellState] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._draw if console.is_terminal else self._tell, name="progress", daemon=True
        )

    def __enter__(self) -> SweepProgress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def look(self) -> str:
        """Reads the store again and says in one line how the sweep stands."""
        latest = {root: Store(root).latest() for root in {job.options.outputs for job in self.jobs.values()}}
        for key, job in self.jobs.items():
            if key not in self.states or self.states[key].standing != "done":  # what is done stays done
                self.states[key] = state_of(job, latest[job.options.outputs])
        beats = [f"{self._name(key)}: {state.beat.progress}" for key, state in self.states.items() if state.beat]
        working = "; ".join(beats[:2]) + (f"; {len(beats) - 2} more" if beats[2:] else "")
        return " · ".join(filter(None, (working, time_left(self.states))))

    def _name(self, key: str) -> str:
        """A cell by its place on the axes, else by its method."""
        job = self.jobs[key]
        return " ".join(job.axes.values()) or job.cell.method.name

    @property
    def done(self) -> int:
        """Cells finished at the last look."""
        return sum(state.standing == "done" for state in self.states.values())

    def _draw(self) -> None:
        columns = (
            TextColumn(self.unit),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            task = progress.add_task("starting", total=len(self.jobs))
            while not self._over.wait(_LOOK_EVERY):
                progress.update(task, description=self.look(), completed=self.done)

    def _tell(self) -> None:
        told, text = time.monotonic(), ""
        while not self._over.wait(_LOOK_EVERY):
            if time.monotonic() - told < _TELL_EVERY:
                continue
            told = time.monotonic()
            if (new := f"{self.look()}") != text:
                text = new
                console.print(f"{self.done} of {len(self.jobs)} {self.unit} done · {text}", soft_wrap=True)


class PairProgress(SweepProgress):
    """The same for one pair: the part of its making that is at work."""

    unit = "pairs"

    def look(self) -> str:
        """Says in one line what is being made, and how long that part may take."""
        (job,) = self.jobs.values()
        beats = list(filter(None, map(read_beat, (job.store.root / "pairs").glob(f".*{SUFFIX}"))))
        return max(beats, key=lambda beat: beat.started).progress if beats else "starting"
