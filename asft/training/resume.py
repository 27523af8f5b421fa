"""Where an interrupted training goes on: weights, optimiser, scheduler, random state and callbacks, on disk.

Only safetensors and JSON are written and read; the Trainer's own checkpoints hold pickles. A checkpoint is
written beside the last one, sealed with checksums and renamed, so a damaged one is noticed and left alone.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from asft.distributed.team import ALONE, Team
from asft.store.integrity import MANIFEST, DamagedEntry, check_contents, describe_files, read_manifest, seal

log = logging.getLogger(__name__)
EVERY = 60.0  # seconds between two checkpoints
_SHARE = 20  # saving takes at most one part in so many of the time
_PREFIX = "checkpoint-"
_WEIGHTS, _OPTIMIZER, _RANDOM, _CALLBACKS = (
    f"{name}.safetensors" for name in ("weights", "optimizer", "random", "callbacks")
)
_STATE, _GROUPS, _SCHEDULER = "trainer_state.json", "groups.json", "scheduler.json"


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
    last callback: the others' ``on_train_begin`` comes before their state.

    Args:
        folder: where checkpoints are kept.
        callbacks: the callbacks whose state is kept.
        every: seconds between two checkpoints.
        team: the processes that train together; rank 0 writes.
    """

    def __init__(self, folder: Path, callbacks: Sequence[TrainerCallback], every: float, team: Team = ALONE) -> None:
        self.folder, self.callbacks, self.every, self.team = folder, callbacks, every, team
        self.possible = all(isinstance(callback, Resumes) for callback in callbacks)
        self.start = team.agree(last_checkpoint(folder) if self.possible and team.rank == 0 else None)
        self._saved, self._wait = time.monotonic(), every

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restores the callbacks' state from the checkpoint that training goes on from."""
        if self.start is None:
            return
        stored = load_file(self.start / _CALLBACKS)
        for index, callback in enumerate(self.callbacks):
            assert isinstance(callback, Resumes)
            callback.load_resume_state(_below(stored, str(index)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Asks for a checkpoint when it is time."""
        at_log = state.global_step % int(args.logging_steps) == 0
        if self.possible and at_log and state.global_step < state.max_steps:
            control.should_save |= self.team.agree(time.monotonic() - self._saved >= self._wait)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        state: TrainerState,
    ) -> None:
        """Writes a checkpoint and removes the one before; every process calls it, rank 0 writes."""
        started = time.monotonic()
        generators = self.team.gather(_random_state())
        if self.team.rank > 0:
            return
        target = self.folder / f"{_PREFIX}{state.global_step}"
        scratch = self.folder / f".{target.name}"
        for half in self.folder.glob(f".{_PREFIX}*"):  # its writer was killed
            shutil.rmtree(half)
        scratch.mkdir(parents=True)
        save_file({name: tensor.detach().clone() for name, tensor in _trainable(model)}, scratch / _WEIGHTS)
        _save_optimizer(optimizer, scratch)
        (scratch / _SCHEDULER).write_text(json.dumps(scheduler.state_dict()))
        named = {_of_rank(rank, name): state for rank, part in enumerate(generators) for name, state in part.items()}
        save_file(named, scratch / _RANDOM)
        save_file(self._callback_state(), scratch / _CALLBACKS)
        state.save_to_json(str(scratch / _STATE))
        (scratch / MANIFEST).write_text(json.dumps(seal({"files": describe_files(scratch)})))
        older = list(self.folder.glob(f"{_PREFIX}*"))
        scratch.replace(target)
        for folder in older:
            shutil.rmtree(folder)
        self._saved = time.monotonic()
        self._wait = max(self.every, _SHARE * (self._saved - started)) if self.every else 0.0

    def _callback_state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for index, callback in enumerate(self.callbacks):
            assert isinstance(callback, Resumes)
            state |= {f"{index}.{name}": tensor for name, tensor in callback.resume_state().items()}
        return state


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are named and passed over."""
    found = sorted(folder.glob(f"{_PREFIX}*"), key=lambda path: -int(path.name.removeprefix(_PREFIX)))
    for path in found:
        try:
            check_contents(path, read_manifest(path))
        except DamagedEntry as error:
            log.warning("damaged checkpoint: %s. Training does not go on from it", error)
        else:
            return path
    return None


def steps_done(checkpoint: Path) -> int:
    """Optimiser steps behind a checkpoint."""
    return int(json.loads((checkpoint / _STATE).read_text())["global_step"])


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Copies the trainable weights into ``model``."""
    stored = load_file(checkpoint / _WEIGHTS)
    with torch.no_grad():
        for name, weight in _trainable(model):
            weight.copy_(stored[name])


def load_optimizer(
    checkpoint: Path, optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> None:
    """Restores moments, step counts, parameter groups and the learning rate's schedule."""
    stored = load_file(checkpoint / _OPTIMIZER)
    indices = sorted({int(name.partition(".")[0]) for name in stored})
    groups = json.loads((checkpoint / _GROUPS).read_text())
    optimizer.load_state_dict({"state": {i: _below(stored, str(i)) for i in indices}, "param_groups": groups})
    scheduler.load_state_dict(json.loads((checkpoint / _SCHEDULER).read_text()))


def load_random_state(checkpoint: Path, rank: int) -> None:
    """Restores torch's generators, which draw dropout; a process that was not there before keeps its own."""
    stored = load_file(checkpoint / _RANDOM)
    if rank > 0:
        stored = _below(stored, f"rank{rank}")
    if "cpu" not in stored:
        return
    torch.set_rng_state(stored["cpu"])
    if devices := [stored[name] for name in sorted(stored) if name.startswith("cuda")]:
        torch.cuda.set_rng_state_all(devices)


def _random_state() -> dict[str, Tensor]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state()} | {f"cuda{index:03d}": state for index, state in enumerate(devices)}


def _of_rank(rank: int, name: str) -> str:
    return f"rank{rank}.{name}" if rank else name


def _save_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": tensor.clone()
        for index, values in state["state"].items()
        for name, tensor in values.items()
        if tensor is not None
    }
    save_file(tensors, folder / _OPTIMIZER)
    (folder / _GROUPS).write_text(json.dumps(state["param_groups"]))


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
