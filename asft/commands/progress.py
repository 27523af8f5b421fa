"""A sweep's one progress display: read from the store, so it is the same whatever launcher does the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from asft.cells.job import Job
from asft.commands.standing import CellState, duration, seconds_left, state_of
from asft.console import console

_LOOK_EVERY, _TELL_EVERY = 1.0, 60.0  # seconds


class SweepProgress:
    """Shows cells done, the stages at work and the time left for as long as the ``with`` block lasts.

    On a terminal it is one line that is renewed; elsewhere a plain line a minute, where something changed.
    """

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self.jobs = dict(jobs)
        self.states: dict[str, CellState] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> SweepProgress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def look(self) -> str:
        """Reads the store again and says in one line how the sweep stands."""
        for key, job in self.jobs.items():
            if key not in self.states or self.states[key].standing != "done":  # what is done stays done
                self.states[key] = state_of(job)
        beats = [state.beat for state in self.states.values() if state.beat]
        left = seconds_left(self.states)
        working = "; ".join(beat.progress for beat in beats[:2]) + (f"; {len(beats) - 2} more" if beats[2:] else "")
        return " · ".join(part for part in (working, f"about {duration(left)} left" if left else "") if part)

    @property
    def done(self) -> int:
        """Cells finished at the last look."""
        return sum(state.standing == "done" for state in self.states.values())

    def _run(self) -> None:
        if console.is_terminal:
            self._draw()
        else:
            self._tell()

    def _draw(self) -> None:
        columns = TextColumn("cells"), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}")
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
                console.print(f"{self.done} of {len(self.jobs)} cells done · {text}", soft_wrap=True, markup=False)
