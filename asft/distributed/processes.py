"""Several processes for one cell, started by ``torchrun`` or ``accelerate launch``: one GPU each, or CPU cores.

Rank 0 runs the whole program. The others build nothing and write nothing: they wait for a call (to train, to
answer), make the same call with the same arguments, and wait again, so no decision is taken twice and the store
has one owner. Calls, and what goes with them, travel over a gloo group without a time limit, since rank 0 may be
busy for hours in between; gradients over NCCL on GPUs and gloo on CPUs.

After each call every process says in the launcher's key-value store how it went. If all failed alike (a setting
that cannot work, a loss that is not finite), the cell has failed and the next one may come. If one failed alone,
the others may be stuck in a collective operation that it will never join: rank 0 then records the failure and
ends, and the launcher ends the rest.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from asft.config import ConfigError
from asft.distributed.team import Team, joined
from asft.store.errors import MAKE_ROOM, OutOfStep, disk_full
from asft.store.meter import release_memory

T = TypeVar("T")
GRACE = 10.0  # seconds in which processes that fail alike are expected to do so
_FOREVER = timedelta(days=365)
_POLL, _PAUSE = 0.5, 0.02  # seconds between two looks: for a failure elsewhere, and for the end of a call
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # by which libraries know that they are one of several processes
_CLAIMED = "asft"  # prefix of this package's keys in the launcher's store


class _KeyValueStore(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...
    def wait(self, keys: list[str], timeout: timedelta) -> None: ...


class Processes(Team):
    """This process among those that the launcher started; see the module's docstring."""

    def __init__(self) -> None:
        self._environment = {name: os.environ[name] for name in _LAUNCHED if name in os.environ}
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl"
        store, self.rank, self.size = next(rendezvous("env://"))
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        for name in self._environment:  # what rank 0 does outside of a call, it does alone
            del os.environ[name]
        self._store: _KeyValueStore = PrefixStore(_CLAIMED, store)
        self._control = dist.new_group(backend="gloo", timeout=_FOREVER)
        self._calls = 0
        self._in_step = True  # whether every process waits for, or is in, the same call
        self._record: Callable[[OutOfStep], None] = lambda error: None

    def agree(self, value: T) -> T:
        """See :meth:`Team.agree`."""
        held = [value]
        dist.broadcast_object_list(held, src=0, group=self._control)
        return held[0]

    def gather(self, value: T) -> list[T]:
        """See :meth:`Team.gather`."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def any(self, flag: bool) -> bool:
        """See :meth:`Team.any`."""
        held = torch.tensor(int(flag))
        dist.all_reduce(held, dist.ReduceOp.MAX, group=self._control)
        return bool(held)

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """See :meth:`Team.rank_zero_first`; where rank 0 fails, the others fail with the same message."""
        if self.rank > 0:
            if failure := self.agree(""):
                raise ValueError(failure)
            yield
            return
        try:
            yield
        except Exception as error:
            self.agree(_message(error))
            raise
        self.agree("")

    @contextmanager
    def announced(self) -> Iterator[None]:
        """See :meth:`Team.announced`."""
        os.environ.update(self._environment)
        try:
            yield
        finally:
            for name in self._environment:
                os.environ.pop(name, None)

    @contextmanager
    def recorded(self, record: Callable[[OutOfStep], None]) -> Iterator[None]:
        """See :meth:`Team.recorded`."""
        before, self._record = self._record, record
        try:
            yield
        finally:
            self._record = before

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """See :meth:`Team.call`."""
        assert self.rank == 0, "rank 0 calls, the others follow"
        assert self._in_step, "one call at a time"
        self._calls += 1
        self.agree((function, arguments))
        self._in_step = False
        over = threading.Event()
        threading.Thread(target=self._watch, args=(over,), name="watch", daemon=True).start()
        try:
            result = function(*arguments)
            outcomes = self._outcomes(math.inf)
        except Exception as error:
            self._fail_alike(error)
            raise
        finally:
            over.set()
        for outcome in outcomes:
            if outcome["message"]:
                raise _out_of_step(outcome)
        self._in_step = True
        return result

    def follow(self) -> None:
        """Makes rank 0's calls until it dismisses this process.

        Raises:
            SystemExit: with status 1 where rank 0 is gone, or this process failed and rank 0 did not.
        """
        while (job := self._next()) is not None:
            self._calls += 1
            function, arguments = job
            failure, trace = "", ""
            try:
                function(*arguments)
            except Exception as error:
                failure, trace = _message(error), traceback.format_exc()
            outcome = {"rank": self.rank, "message": failure, "traceback": trace}
            self._store.set(self._key(self.rank), json.dumps(outcome))
            if failure:
                self._await_verdict()
            release_memory()

    def dismiss(self) -> None:
        """Lets the others go, where they wait for it."""
        if self._in_step:
            self.agree(None)

    def _next(self) -> Any:
        try:
            return self.agree(None)
        except RuntimeError:  # the connection to rank 0 is closed
            raise SystemExit(1) from None

    def _await_verdict(self) -> None:
        try:
            self._store.wait([self._key(0)], timedelta(seconds=3 * GRACE))
        except RuntimeError:  # in which time rank 0 has recorded the failure, if it could
            raise SystemExit(1) from None

    def _fail_alike(self, error: Exception) -> None:
        """Returns where every process has failed with the message of ``error``, a mistake that each found by itself.

        Raises:
            OutOfStep: where that is not so, and for what is no ValueError: no memory, a broken connection.
        """
        message, mistake = _message(error), isinstance(error, ValueError)
        outcomes = self._outcomes(GRACE if mistake else 0.0)
        alike = len(outcomes) == self.size - 1 and all(outcome["message"] == message for outcome in outcomes)
        if mistake and alike:
            self._store.set(self._key(0), "failed alike")
            self._in_step = True
            return
        first = next((outcome for outcome in outcomes if outcome["message"]), None)
        raise _out_of_step(first or {"rank": 0, "message": message, "traceback": ""}) from error

    def _outcomes(self, seconds: float) -> list[dict[str, Any]]:
        """How the present call ended in the other processes, once it has in all of them or so much time is up."""
        keys = [self._key(rank) for rank in range(1, self.size)]
        until = time.monotonic() + seconds
        while not self._store.check(keys) and time.monotonic() < until:
            time.sleep(_PAUSE)  # and not one long wait, in which no signal would be answered
        return [json.loads(self._store.get(key)) for key in keys if self._store.check([key])]

    def _watch(self, over: threading.Event) -> None:
        """Ends this process where another one failed and this one is stuck waiting for it."""
        while not over.wait(_POLL):
            failed = next((outcome for outcome in self._outcomes(0.0) if outcome["message"]), None)
            if failed and not over.wait(GRACE):
                self._record(_out_of_step(failed))
                sys.stderr.flush()
                os._exit(1)  # the main thread may be deep in a collective operation; nothing else ends it

    def _key(self, rank: int) -> str:
        return f"call/{self._calls}/{rank}"


@contextmanager
def together() -> Iterator[Processes]:
    """This process' team while the ``with`` block lasts; at its end rank 0 dismisses the others.

    Raises:
        ConfigError: where the launcher asks for what there is not.
    """
    _check_launcher()
    processes = Processes()
    if processes.rank == 0:  # an orderly end when another process died or time is up: no half-written folder stays
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with joined(processes):
        try:
            yield processes
        finally:
            if processes.rank == 0:
                processes.dismiss()
    dist.destroy_process_group()


def _check_launcher() -> None:
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() == "true":
            raise ConfigError(f"{name}=true: sharded training is not supported; launch with --multi_gpu (DDP)")
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) != "no":
        raise ConfigError(f"--mixed_precision={precision}: the number format is model.dtype; launch without it")


def _message(error: Exception) -> str:
    """One line for a user."""
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "out of memory: several processes do not halve a batch. Lower training.batch_size (and raise "
            "training.accumulation) or evaluation.batch_size, or start more processes"
        )
    text = str(error)
    if disk_full(error):
        return f"{text}. {MAKE_ROOM}"
    if "gloo/transport" in text:
        return "its connection to another process broke; the launcher's output says which one ended, and why"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}".splitlines()[0]


def _out_of_step(failure: dict[str, Any]) -> OutOfStep:
    error = OutOfStep(f"process {failure['rank']} could not go on, and all were ended: {failure['message']}")
    if failure["traceback"]:
        error.add_note(failure["traceback"])
    return error
