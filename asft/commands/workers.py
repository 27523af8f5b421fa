"""Cells of a sweep at once: processes that go through all its cells, each taking those that nobody is at work on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from typing import TypeVar, cast

import psutil  # type: ignore[import-untyped]

from asft.cells.compose import cores, threads_asked, threads_per_worker
from asft.cells.job import Job
from asft.console import ConsoleHandler, show_log
from asft.judges.checkpoint_judge import CheckpointJudge
from asft.judges.endpoint import ChatQuestion
from asft.models.checkpoints import SMALL
from asft.models.gpu import visible_gpus
from asft.planning.size import judges, model_shape

log = logging.getLogger("asft.run")
T = TypeVar("T")
_MEMORY = 2**30  # bytes that a worker takes at most with a small model


def workers(jobs: Collection[Job]) -> tuple[int, int]:
    """How many processes share these cells out, and threads of each.

    So many as ``workers`` says; by itself one a core where cells are small and the memory suffices, else one.
    """
    small, asked = all(map(_is_small, jobs)), next(iter(jobs)).options.workers
    room = psutil.virtual_memory().available // _MEMORY
    fitting = min(cores() // (threads_asked() or 1), room) if small else 1
    count = max(1, min(fitting if asked == "auto" else asked, len(jobs)))
    return count, 1 if small else threads_per_worker(count)


def _is_small(job: Job) -> bool:
    """Whether a cell is computed by one core: a small model, and no judge that is a checkpoint or has a rate limit."""
    if job.device != "cpu" and (job.device == "cuda" or shutil.which("nvidia-smi")):
        return False
    if job.cell.graded or any(isinstance(judge, CheckpointJudge | ChatQuestion) for judge in judges(job.cell.judge)):
        return False
    shape = model_shape(job)
    return shape is not None and 4 * shape.parameters < SMALL


def gpus_for(jobs: Collection[Job]) -> list[str]:
    """The GPUs that workers deal out for these cells."""
    return [] if all(map(_is_small, jobs)) else visible_gpus()


def in_workers(count: int, threads: int, task: Callable[[], T], gpus: Sequence[str] = ()) -> list[T]:
    """Has ``count`` processes do the task, and prints what they log. Ctrl-C ends them, and so does this one's end.

    ``gpus`` are dealt out; where there are fewer than processes, several processes have the same. Returns what the
    task returns, of those that come to its end.
    """
    context = multiprocessing.get_context("spawn")
    told, processes = list[Connection](), list[multiprocessing.process.BaseProcess]()
    results = list[T]()
    handler = ConsoleHandler()
    handled = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C on the terminal reaches this one alone
    try:
        for index in range(count):
            share = ",".join(gpus[index % len(gpus) :: count]) if gpus else None
            reader, writer = context.Pipe(duplex=False)
            told.append(reader)
            processes.append(context.Process(target=_work, args=(task, threads, share, writer)))
            processes[-1].start()
            writer.close()  # its end here, so that the worker's end ends the pipe
    finally:
        signal.signal(signal.SIGINT, handled)
    try:
        while told:
            for reader in cast("list[Connection]", wait(told)):
                try:
                    said = reader.recv()
                except (EOFError, OSError):
                    told.remove(reader)
                else:
                    if isinstance(said, logging.LogRecord):
                        handler.handle(said)
                    else:
                        results.append(said)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
            if (code := process.exitcode or 0) < 0 and code != -signal.SIGTERM:
                why = "often for want of memory, of which a smaller workers= takes less"
                log.error("a worker was ended by a signal (%s), %s", signal.strsignal(-code), why)
    return results


def _work(task: Callable[[], object], threads: int, gpus: str | None, told: Connection) -> None:
    """A worker's life."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TTY_COMPATIBLE"] = "0"  # the terminal's live line is the parent's
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if gpus is not None:  # before CUDA starts: each then sees its own alone
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    show_log(_Told(told))  # type: ignore[arg-type]  # a pipe in place of a queue
    with suppress(KeyboardInterrupt):
        try:
            told.send(task())
        except (ValueError, OSError) as error:  # what has no cell to be recorded with, such as a full disk
            log.error("%s", error)


class _Told(QueueHandler):
    """Sends records to the parent process."""

    def enqueue(self, record: logging.LogRecord) -> None:
        """See :class:`logging.handlers.QueueHandler`."""
        cast(Connection, self.queue).send(record)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
