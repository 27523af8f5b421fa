"""``asft run``: one cell, or a sweep of typed cells through any of Hydra's launchers."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import sys
import textwrap
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import partial

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from asft.cells.checks import check_together, few_test_rows, to_tell
from asft.cells.compose import (
    CONFIG_NAME,
    Sweep,
    config_dir,
    enumerate_all,
    enumerate_cells,
    launch,
    no_variables,
    one_by_one,
    one_line,
    overrides_without_secrets,
)
from asft.cells.job import Job
from asft.cells.naming import fine_tune, method_name
from asft.commands.flags import asked_of_hydra, run_flags
from asft.commands.progress import SweepProgress
from asft.commands.workers import gpus_for, in_workers, workers
from asft.config import ConfigError, as_plain
from asft.console import console, quiet_libraries, show_log
from asft.distributed.team import started_together, team, together
from asft.planning.ahead import left_out, refuse
from asft.store.celllog import cell_log
from asft.store.entries import Entry, content_key
from asft.store.errors import MAKE_ROOM, DiskFull, OutOfStep, disk_full
from asft.store.meter import release_memory
from asft.text import masked
from asft.trackers.base import USUAL, unusual

log = logging.getLogger("asft.run")
# Words that no table depends on.
PRACTICAL = re.compile(r"\+{0,2}(workers|device|checkpoint_every|tracker(\.\w+)?|hydra[/.].*?)=")
_settled: set[str] = set()  # cells that this command, a worker or a launcher's job has gone through without a failure
_told: set[str] = set()  # cells whose failure was told here
_reasons: set[str] = set()  # and why: of many cells that lack one file it is told once


def run(arguments: list[str]) -> int:
    """Checks every cell, launches those that are not finished, and says at the end which failed: returns 1, else 0."""
    if started_together() == 1:
        return _lead(arguments)
    with together() as processes:
        if processes.rank == 0:
            try:
                code = _lead(arguments)
            except Exception:
                processes.agree(None)
                raise
            processes.agree(None)
            return code
        while (job := processes.agree(None)) is not None:  # the first process decides which cell is next
            _compute(job)
        return 0


def _lead(arguments: list[str]) -> int:
    options, words = run_flags().split(arguments)
    if asked := asked_of_hydra(options):
        if options.multirun:
            sweep = enumerate_all(words)
            words = list(sweep.overrides)
            console.print(f"of the first of {_cells(distinct(sweep.cells))}:", soft_wrap=True)
        _ask_hydra([*asked, *words])
        return 0
    is_sweep: bool = options.multirun
    sweep = enumerate_all(words) if is_sweep else enumerate_cells(words, sweep=False)
    jobs = distinct(sweep.cells)
    todo = {key: job for key, job in jobs.items() if job.find() is None}
    lacking = {key: job for key, job in jobs.items() if key not in todo and job.lacking()}
    refuse([*todo.values(), *lacking.values()], elsewhere=sweep.launcher != "basic")
    if team().size > 1:
        _check_together(sweep.launcher, list(todo.values()))
    if is_sweep:
        console.print(f"{_cells(jobs)}, {len(jobs) - len(todo)} finished already")
    elif (experiment := sweep.cells[0].experiment) is not None:
        whole = distinct(enumerate_cells(words, sweep=True).cells)
        told = f"experiment={experiment.name} is a sweep of {_cells(whole)}; this is one, and -m runs them all"
        console.print(told, soft_wrap=True)
    for line in to_tell(job.cell for job in todo.values()):
        console.print(line, style="yellow", soft_wrap=True)
    for line in left_out(todo.values()):
        console.print(line, soft_wrap=True)
    if any("dataset.n_test=" in word for word in words):  # the defaults may exceed the embedded world's rows
        for line in few_test_rows(job.cell for job in todo.values()):
            console.print(line, soft_wrap=True)
    for key, job in (todo | lacking).items():
        job.store.clear_failure(key)
    if lacking:
        names = ", ".join(dict.fromkeys(name for job in lacking.values() for name in job.lacking()))
        console.print(f"{names}: scored beside {_cells(lacking)} now", soft_wrap=True)
    failed = 0
    for kept in (_settled, _told, _reasons):
        kept.clear()
    show_log()
    if todo or lacking:
        _work(sweep, jobs, todo | lacking, is_sweep)
        failed = _summary(todo, is_sweep)
        # What a metric cannot score here is left out, and is no failure.
        if unscored := [job for key, job in lacking.items() if key not in _settled and job.lacking()]:
            console.print(f"{_cells(unscored)} finished before could not be scored beside", style="bold red")
            failed = 1
    elif not is_sweep:
        (job,) = jobs.values()
        entry = job.find()
        assert entry is not None, "nothing is to be done"
        console.print(finished_line(job, entry, "done before"), soft_wrap=True)
        if job.tracker.name != "none":
            console.print(f"`asft track {shlex.join(words)}` shows it to {job.tracker.name}", soft_wrap=True)
    if is_sweep and sweep.cells[0].experiment is not None and not failed:
        shown = [word for word in words if not PRACTICAL.match(word)]
        tables = "tables" if len(one_by_one(words)) > 1 else "table"
        console.print(f"`asft report {shlex.join(shown)}` writes the {tables}", soft_wrap=True)
    return failed


def _cells(cells: Iterable[object]) -> str:
    count = len(list(cells))
    return f"{count} cell{'s' * (count != 1)}"


def _check_together(launcher: str, jobs: list[Job]) -> None:
    """Refuses, by ConfigError, what several processes cannot do together."""
    if launcher != "basic":
        raise ConfigError(
            f"hydra/launcher={launcher}: starts processes of its own, and {team().size} were started already; leave it "
            "out, or start one process"
        )
    for job in jobs:
        check_together(job.cell, job.device)


def _work(sweep: Sweep, jobs: dict[str, Job], todo: dict[str, Job], is_sweep: bool) -> None:
    """Launches the jobs, then sees to the cells that another sweep, or a worker that was killed, has left."""
    try:
        with SweepProgress(jobs):
            if sweep.launcher != "basic":
                _settled.update(*_launched(sweep, todo, wait=not is_sweep))
            elif is_sweep and team().size == 1 and (shared := workers(todo.values()))[0] > 1:
                work = partial(_run_jobs, list(todo.values()), wait=False)
                for settled, told in in_workers(*shared, work, gpus_for(todo.values())):
                    _settled.update(settled)
                    _told.update(told)
            else:
                _run_jobs(todo.values(), wait=not is_sweep)
            for key, job in todo.items():
                # What a launcher's jobs have left free is not for this machine.
                if key not in _settled | _told and (sweep.launcher == "basic" or _is_taken(job)):
                    _run_job(job, wait=True)
    except HydraException as error:
        raise ConfigError(one_line(error)) from error
    except OSError as error:
        if disk_full(error):
            raise DiskFull(f"{error}. {MAKE_ROOM}") from error
        raise


def _launched(sweep: Sweep, todo: Mapping[str, Job], *, wait: bool) -> list[set[str]]:
    """The cells that each of the launcher's jobs has gone through; none where the launcher itself fails, which is told.

    HydraException where it cannot begin.
    """
    try:
        return launch(sweep, list(todo), partial(_task, todo, wait=wait))
    except HydraException:
        raise
    except Exception as error:  # each launcher has its own for a job that was killed, or that nobody would take
        if disk_full(error):
            raise
        told = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        log.error("hydra/launcher=%s  failed: %s. `asft status` shows what still runs", sweep.launcher, told)
        return []


def _run_jobs(jobs: Iterable[Job], *, wait: bool) -> tuple[set[str], set[str]]:
    """Returns the cells that were gone through, and those that failed."""
    for job in jobs:
        _run_job(job, wait=wait)
    return _settled, _told


def _task(jobs: Mapping[str, Job], config: DictConfig, *, wait: bool) -> set[str]:
    """One of the launcher's jobs: a failure is recorded and told, and does not stop the sweep."""
    _run_job(jobs[config.job], wait=wait)
    return _settled


def _is_taken(job: Job) -> bool:
    """Whether another process has a cell; its heartbeat may be late, its lock is not."""
    with job.store.claim(job.key, wait=False) as ours:
        return not ours


def _ask_hydra(arguments: list[str]) -> None:
    """Hands Hydra the command line as the user typed it: help, the composed configuration, shell completion."""
    overrides_without_secrets(arguments)
    sys.argv = ["asft run", *arguments]
    if "COMP_LINE" in os.environ:  # Hydra's completion expects the overrides right after the program's name
        os.environ["COMP_LINE"] = os.environ["COMP_LINE"].replace(" run ", " ", 1)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of ending the process
    main = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=CONFIG_NAME)
    shown = io.StringIO()
    try:
        with no_variables(), redirect_stdout(shown):
            main(lambda config: None)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error
    finally:
        sys.stdout.write(masked(shown.getvalue()))


def _run_job(job: Job, *, wait: bool) -> None:
    """Runs a cell unless it is finished or has failed, or without ``wait`` is being worked on by another process."""
    store, key = job.store, job.key
    if _is_whole(job):  # a control that stands in several columns, or another worker was faster
        _settled.add(key)
        return
    if wait and (beat := store.working(key)):
        log.info("%s  waits for %s, which is at work on it", describe(job), beat.where)
    with store.claim(key, wait=wait) as ours:
        if ours and not _is_whole(job) and store.failure(key) is None:
            with cell_log(job.options.outputs, key):
                _compute(team().agree(job))


def _is_whole(job: Job) -> bool:
    """Whether a cell is finished, the scores beside its own too as far as they can be had."""
    return job.find() is not None and not job.lacking()


def record_failure(job: Job, error: Exception) -> str:
    """Keeps why a cell failed, and says it: of a fault that nobody foresaw, where its traceback is."""
    known = isinstance(error, ValueError | OutOfStep)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    with suppress(OSError):  # on a full disk there is no room for the record either
        text = "".join(traceback.format_exception(error))
        job.store.record_failure(job.key, message, job.plain(), text)
    return message if known else f"{message} (traceback: {job.store.root / 'failures' / job.key}.json)"


def _compute(job: Job) -> None:
    started = time.monotonic()

    try:
        from asft.pipeline.run import run_cell  # torch and transformers load only where something is to be done

        quiet_libraries()
        entry = team().step(partial(run_cell, job))
    except Exception as error:
        out_of_step = isinstance(error, OutOfStep)
        if (team().rank == 0 or out_of_step) and not (out_of_step and job.store.failure(job.key)):
            reason = record_failure(job, error)  # else who failed first has told why
            log.error("%s  failed: %s", describe(job), "for the same reason" if reason in _reasons else reason)
            _told.add(job.key)
            _reasons.add(reason)
        if out_of_step:
            raise SystemExit(1) from None
    else:
        _settled.add(job.key)
        log.info(finished_line(job, entry, f"{time.monotonic() - started:.0f} s"))
        return
    release_memory()  # else the next cell's training would find less of it


def finished_line(job: Job, entry: Entry, how: str) -> str:
    """A finished cell with its scores, which have a line of their own where a terminal is too narrow for both."""
    scores = (f"{name} {metric['value']:5.1f}" for name, metric in entry.result.get("metrics", {}).items())
    found = values_text(entry) if job.cell.measure is not None else "  ".join(scores)
    line, told = describe(job), f"{found}  ({how})"
    if not console.is_terminal or len(line) + 2 + len(told) <= console.width:
        return f"{line}  {told}"
    return "\n  ".join([*textwrap.wrap(line, console.width - 2), told])


def describe(job: Job) -> str:
    """A cell in one short line: method, model, task, what is attacked how, and what else is not as usual."""
    cell = job.cell
    if cell.measure is not None:
        return f"{cell.measure.describe()}  {cell.model.name} n={cell.attack.n} seed={cell.seed}"
    method = method_name(cell.method.settings(), as_plain(cell.model))
    asked = unusual({part: getattr(cell, part).name for part in USUAL})
    seed = "" if cell.seed == cell.protocol.seed else f" seed={cell.seed}"
    trained = f"{fine_tune(cell.plain())}{seed}" if cell.method.trains else "not fine-tuned"
    return f"{method:<14} {cell.model.name} {cell.dataset.name} {trained}{asked}"


def distinct(jobs: Sequence[Job]) -> dict[str, Job]:
    """Jobs by key: a control that does not depend on an axis is one cell, not one per value.

    Scores beside a cell are in no key: one that an experiment wants them of has those that any of them wants.
    """
    found: dict[str, Job] = {}
    for job in jobs:
        known = found.setdefault(job.key, job)
        if more := {name: metric for name, metric in job.cell.beside.items() if name not in known.cell.beside}:
            found[job.key] = known.of(replace(known.cell, beside={**known.cell.beside, **more}))
    return found


def sweep_name(jobs: Sequence[Job], name: str) -> str:
    """A table's name with its model's; other cells or another layout under the same names have one of their own."""
    first, cells = jobs[0], sorted(job.key for job in jobs)
    layout = as_plain(first.experiment) or {}
    return f"{name}_{first.cell.model.name}_{content_key({'cells': cells, 'layout': layout})[:6]}"


def values_text(entry: Entry) -> str:
    """A measure's numbers in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in entry.result["values"].items())


def _summary(jobs: dict[str, Job], is_sweep: bool) -> int:
    """After a sweep, lists what did not finish; a single cell has told its failure already."""
    missing = {key: job for key, job in jobs.items() if job.find() is None}
    if not missing:
        return 0
    if is_sweep:
        console.print(f"{len(missing)} of {_cells(jobs)} failed", style="bold red")
        for key, job in missing.items():
            if key in _told:
                continue
            reason = job.store.failure(key) or "was not reached"
            console.print(f"  {describe(job)}: {reason}", soft_wrap=True)
    return 1
