"""The processes that compute a cell together: one by default, several under ``torchrun`` or ``accelerate launch``.

Every process goes through the same cell. What is to be decided, written or told, the first one does alone, and the
others take its word, over a gloo group without a time limit since it may be busy for hours. Gradients travel as the
Trainer has it: over NCCL on GPUs and gloo on CPUs. A process that fails where the others do not ends, and its launcher
ends the others.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from asft.config import ConfigError
from asft.store.entries import Entry, Store
from asft.store.errors import MAKE_ROOM, OutOfStep, disk_full

T = TypeVar("T")
GRACE = timedelta(seconds=10)  # in which processes that fail alike are expected to do so
_FOREVER = timedelta(days=365)
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # by which libraries know that they are one of several processes


class Team:
    """This process, ``rank`` from 0, among the ``size`` that were started together.

    ``local_rank`` is its number on its machine, which is also its GPU's; ``environment`` the launcher's variables.
    """

    rank = 0
    size = 1
    local_rank = 0

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self.environment = {name: os.environ[name] for name in _LAUNCHED if group and name in os.environ}

    def agree(self, value: T) -> T:
        """The first process' value."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0, group=self._group)
        return held[0]

    def gather(self, value: T) -> list[T]:
        """Every process' value, by rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def first(self, function: Callable[[], T]) -> T:
        """What ``function`` returns in the first process, where it runs as if alone; the others wait for it.

        Where ``function`` fails, every process raises ValueError.
        """
        return self.lead(lambda _: function(), lambda _: None)

    def lead(self, function: Callable[[Callable[[Any], Any]], T], work: Callable[[Any], Any]) -> T:
        """As :meth:`first`; ``function`` is handed a call that makes every process ``work`` on the call's argument."""
        if self.size == 1:
            return function(work)
        if self.rank > 0:
            while (told := self.agree(("", None)))[0] == "work":
                with suppress(ValueError):  # the first process has failed, too, and says so
                    self.step(partial(work, told[1]))
            if told[0] == "failed":
                raise ValueError(told[1])
            return cast(T, told[1])

        def together(argument: Any) -> Any:
            with joined(self):
                self.agree(("work", argument))
                return self.step(partial(work, argument))

        try:
            with joined(ALONE):
                value = function(together)
        except OutOfStep:
            raise
        except Exception as error:
            self.agree(("failed", _message(error)))
            if isinstance(error, ValueError):
                raise
            raise ValueError(_message(error)) from error
        self.agree(("done", value))
        return value

    def step(self, work: Callable[[], T]) -> T:
        """What ``work`` returns here, where every process does it; if it fails in one, it fails in all.

        Raises:
            ValueError: for a mistake, after which every process can go on.
            OutOfStep: where this process has failed and the others may wait for it in the middle of something.
        """
        if self.size == 1:
            return work()
        import torch.distributed as dist

        failure = None
        try:
            result = work()
        except ValueError as error:
            failure = error
        except OutOfStep:
            raise
        except Exception as error:
            raise self._out_of_step(error) from error
        try:
            dist.monitored_barrier(self._group, GRACE if failure else _FOREVER)
            messages = self.gather(str(failure or ""))
        except RuntimeError as error:
            raise self._out_of_step(failure or error) from (failure or error)
        if failure:
            raise failure
        if message := next(filter(None, messages), ""):
            raise ValueError(message)
        return result

    def _out_of_step(self, error: Exception) -> OutOfStep:
        return OutOfStep(f"process {self.rank} could not go on, and all were ended: {_message(error)}")


def started_together() -> int:
    """How many processes the launcher (``torchrun``, ``accelerate launch``) has started."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def check_launcher() -> None:
    """Refuses, by ConfigError, what ``accelerate launch`` would change of a training, which is in no key."""
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() == "true":
            raise ConfigError(
                f"{name}=true: asft run shards no training; launch with --multi_gpu (DDP), or give AsFTCallback to a "
                "training script of your own (docs/scaling.md)"
            )
    told = {
        "mixed_precision": "number formats are training.autocast and model.dtype",
        "dynamo_backend": "no training is compiled",
    }
    for flag, instead in told.items():
        if (value := os.environ.get(name := f"ACCELERATE_{flag.upper()}", "no")).lower() != "no":
            raise ConfigError(f"{name}={value} (--{flag}): {instead}; launch without it")


ALONE = Team()
_team = ALONE


def team() -> Team:
    """This process' team."""
    return _team


@contextmanager
def joined(team: Team) -> Iterator[None]:
    """Makes ``team`` this process' team inside the ``with`` block, for libraries, too."""

    def join(team: Team) -> None:
        global _team
        _team = team
        for name in _LAUNCHED:
            os.environ.pop(name, None)
        os.environ.update(team.environment)

    before = _team
    join(team)
    try:
        yield
    finally:
        join(before)


@contextmanager
def together() -> Iterator[Team]:
    """The team of the processes that a launcher has started, while the ``with`` block lasts."""
    import torch
    import torch.distributed as dist

    local_rank, backend = int(os.environ.get("LOCAL_RANK", 0)), "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    team = Team(dist.new_group(backend="gloo", timeout=_FOREVER))
    team.rank, team.size, team.local_rank = dist.get_rank(), dist.get_world_size(), local_rank
    if team.rank == 0:  # an orderly end when another process died or time is up: no half-written folder stays
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    else:
        logging.disable(logging.WARNING)  # the first process tells
    with joined(team):
        yield team
    dist.destroy_process_group()


def _message(error: Exception) -> str:
    """One line for a user."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "out of memory: several processes do not halve a batch. Lower training.batch_size (and raise "
            "training.accumulation) or evaluation.batch_size, or start more processes"
        )
    if disk_full(error):
        return f"{text}. {MAKE_ROOM}"
    if "gloo/transport" in text:
        return "its connection to another process broke; the launcher's output says which one ended, and why"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}".splitlines()[0]


class SharedStore(Store):
    """The store of a cell that every process of a team goes through; each asks it the same at the same time."""

    def find(self, kind: str, key: str, *, whole: bool = False) -> Entry | None:
        return team().first(partial(super().find, kind, key, whole=whole))

    def ensure(self, kind: str, settings: Mapping[str, Any], produce: Callable[[Path], dict[str, Any]]) -> Entry:
        """See :meth:`Store.ensure`; the first process alone computes the entry."""
        return team().first(partial(super().ensure, kind, settings, produce))

    def ensure_together(
        self, kind: str, settings: Mapping[str, Any], produce: Callable[[Path], dict[str, Any]]
    ) -> Entry:
        """As :meth:`ensure`, with ``produce`` called in every process; what the first one returns is kept."""
        return team().lead(partial(super().ensure, kind, settings), produce)
