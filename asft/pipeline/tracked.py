"""From the store to trackers: who a cell is, and a finished one's training logs, scores, intervals and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from asft.cells.job import Job
from asft.config import GRADED_TASKS
from asft.metrics.intervals import wilson
from asft.store.entries import HARMFUL_FILE, HISTORY_FILE, TASK_FILE, Entry, Store, read_jsonl
from asft.trackers.base import CellRun, TrackedCell


def cell_run(job: Job) -> CellRun:
    """Who a cell is to its tracker, finished or not."""
    cell = job.cell
    return CellRun(
        key=job.key,
        row=cell.measure.describe() if cell.measure else cell.method.name,
        trained=cell.method.trains,
        config=job.plain(),
        folder=job.options.outputs / job.tracker.name,
    )


def tracked_cell(entry: Entry, job: Job) -> TrackedCell:
    """What a tracker is given of a finished cell; ``job`` is what asked for it."""
    run, cell = cell_run(job), job.cell
    return TrackedCell(
        key=run.key,
        row=run.row,
        trained=run.trained,
        config=run.config,
        folder=run.folder,
        history=_history(job.store, entry) if cell.measure is None else [],
        summary=_measured(entry) if cell.measure else _scores(entry, cell.dataset.name),
        answers=lambda: _answers(entry) if cell.measure is None else iter(()),
    )


def _history(store: Store, entry: Entry) -> list[dict[str, float]]:
    """The logs of the training that the cell is of; empty for an untouched model and for a repaired adapter."""
    train = entry.result["stages"].get("train")
    if train is None:
        return []
    path = store.path("stages/train", train["key"]) / HISTORY_FILE
    return list(read_jsonl(path)) if path.is_file() else []


def _scores(entry: Entry, dataset: str) -> dict[str, float]:
    """The scores and Wilson's intervals; a graded task has none, it is no count."""
    metrics: Mapping[str, Any] = entry.result["metrics"]
    hs = wilson(metrics["hs_flagged"], metrics["hs_total"])
    summary = {**metrics, "hs_lo": hs.lo, "hs_hi": hs.hi}
    if dataset not in GRADED_TASKS:
        fa = wilson(round(metrics["fa"] * metrics["fa_total"] / 100), metrics["fa_total"])
        summary |= {"fa_lo": fa.lo, "fa_hi": fa.hi}
    return summary


def _measured(entry: Entry) -> dict[str, float]:
    """A measure's values, with the ends of the interval around its headline where it knows one."""
    values: dict[str, float] = dict(entry.result["values"])
    if entry.result["interval"] is not None:
        values["interval_lo"], values["interval_hi"], _ = entry.result["interval"]
    return values


def _answers(entry: Entry) -> Iterator[dict[str, Any]]:
    for part, name in (("harmful", HARMFUL_FILE), ("task", TASK_FILE)):
        for row in read_jsonl(entry.path / name):
            yield {"part": part, **row}
