"""When an interrupted training saves, and what it goes on from: the Trainer's own checkpoints, sealed with checksums.

A checkpoint counts once its manifest is there, which is written last, so a half-written or damaged one is noticed and
left alone. What callbacks hold beyond the weights lies beside the Trainer's files.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from asft.distributed.team import team
from asft.store.errors import DamagedEntry
from asft.store.integrity import MANIFEST, check_contents, describe_files, read_manifest, seal

log = logging.getLogger(__name__)
EVERY = 60.0  # seconds between two checkpoints
_SHARE = 20  # saving takes at most one part in so many of the time
_CALLBACKS = "callbacks.safetensors"


@runtime_checkable
class Resumes(Protocol):
    """A callback that can go on from the middle: what it holds beyond the weights, as tensors by name.

    A training whose callbacks do not all have these methods is never resumed; it starts again from step 0.
    """

    def resume_state(self) -> dict[str, Tensor]:
        """What the callback needs besides the weights; empty where it needs nothing."""

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes it back, after ``on_train_begin``."""


class Checkpointer(TrainerCallback):
    """Asks the Trainer to save now and then, and hands callbacks their state back when training begins again.

    It saves where the Trainer logs, so that every logged loss is averaged over a whole interval. It must be the
    last callback: the others' ``on_train_begin`` comes before their state. ``every`` is in seconds.
    """

    def __init__(self, folder: Path, callbacks: Sequence[TrainerCallback], every: float) -> None:
        self.folder, self.every = folder, every
        self.callbacks = [callback for callback in callbacks if isinstance(callback, Resumes)]
        self.possible = len(self.callbacks) == len(callbacks)
        self.start = team().first(partial(last_checkpoint, folder)) if self.possible else None
        self._asked, self._saved, self._wait = 0.0, time.monotonic(), every

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restores the callbacks' state from the checkpoint that training goes on from."""
        if self.start is None:
            return
        stored = load_file(self.start / _CALLBACKS)
        for index, callback in enumerate(self.callbacks):
            start = f"{index}."
            callback.load_resume_state({k.removeprefix(start): v for k, v in stored.items() if k.startswith(start)})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Asks for a checkpoint when it is time."""
        at_log = state.global_step % int(args.logging_steps) == 0
        if self.possible and at_log and state.global_step < state.max_steps:
            self._asked = time.monotonic()
            control.should_save |= team().agree(self._asked - self._saved >= self._wait)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Adds the callbacks' state to what the Trainer has saved, seals it, and removes the checkpoints before."""
        team().gather(None)  # every process has written its random state
        if team().rank > 0:
            return
        saved = self.folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        states = enumerate(callback.resume_state() for callback in self.callbacks)
        save_file(
            {f"{index}.{name}": held for index, state in states for name, held in state.items()}, saved / _CALLBACKS
        )
        (saved / MANIFEST).write_text(json.dumps(seal({"files": describe_files(saved)})))
        for folder in self.folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if folder != saved:
                shutil.rmtree(folder)
        self._saved = time.monotonic()
        self._wait = max(self.every, _SHARE * (self._saved - self._asked)) if self.every else 0.0


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are named and passed over."""
    saved = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal()]
    for path in sorted(saved, key=step_of, reverse=True):
        try:
            check_contents(path, read_manifest(path))
        except DamagedEntry as error:
            log.warning("damaged checkpoint: %s. Training does not go on from it", error)
        else:
            return path
    return None


def step_of(checkpoint: Path) -> int:
    """Optimiser steps behind a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])
