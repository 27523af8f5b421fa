"""A cell's run at its tracker while the cell is computed; whatever goes wrong there harms no cell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from asft.trackers.base import CellRun, OpenRun, TrackedCell, Tracker

log = logging.getLogger(__name__)


class LiveRun(TrainerCallback):
    """Streams a training to the tracker as the Trainer logs; a context that ends the run with its cell.

    The run is opened when training begins and closed by :meth:`finish`, or as failed when the context is left by
    an error. Where no training of the cell's own ran, ``finish`` sends everything at once. In a training over
    several processes the first alone tracks. It must come after the callbacks that add to the logs.
    """

    def __init__(self, tracker: Tracker, cell: CellRun) -> None:
        self.tracker, self.cell = tracker, cell
        self._run: OpenRun | None = None

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._abandon()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Opens the run, with what was logged before an interruption."""
        if not state.is_world_process_zero:
            return
        self._abandon()  # a training that ran out of memory begins again
        try:
            self._run = self.tracker.start(self.cell)
        except Exception as error:
            self._give_up(error)
        for entry in state.log_history:
            self._log(entry)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Sends the newest entry."""
        self._log(state.log_history[-1])

    def resume_state(self) -> dict[str, Tensor]:
        """Nothing: what was logged is in the Trainer's own state."""
        return {}

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to take back."""

    def finish(self, cell: Callable[[], TrackedCell]) -> None:
        """Ends the run with the finished cell's scores; a run that could not be kept open is sent as a whole."""
        try:
            if self._run is None:
                self.tracker.track(cell())
            else:
                self._run.end(cell())
                self._run = None
        except Exception as error:  # a tracker is third-party code and often a network
            log.warning("tracker=%s: this cell was not tracked: %s", self.tracker.name, error)

    def _log(self, entry: Mapping[str, float]) -> None:
        if self._run is None or "loss" not in entry:  # the Trainer's closing entry is no point of the curve
            return
        try:
            self._run.log(entry)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("tracker=%s: not shown while it trains, tried again at the end: %s", self.tracker.name, error)
        self._abandon()

    def _abandon(self) -> None:
        """Closes the run as failed, if there is one."""
        run, self._run = self._run, None
        try:
            if run is not None:
                run.fail()
        except Exception as error:
            log.warning("tracker=%s: the run could not be closed: %s", self.tracker.name, error)
