"""From the store to trackers: who a cell is, and a finished one's training logs, scores, intervals and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asft.cells.cell import Cell
from asft.cells.job import Job
from asft.cells.naming import around_it, fine_tune, variant
from asft.config import as_plain, passed_on
from asft.store.entries import Entry, Store
from asft.store.schemas import HISTORY_FILE, Judged, Logged, read_rows
from asft.text import without_home
from asft.trackers.base import CellRun, TrackedCell


def cell_run(job: Job) -> CellRun:
    """Who a cell is to its tracker, finished or not."""
    return CellRun(**_identity(job))


def tracked_cell(entry: Entry, job: Job) -> TrackedCell:
    """What a tracker is given of a finished cell; ``job`` is what asked for it."""
    measured = job.cell.measure is not None
    return TrackedCell(
        **_identity(job),
        history=[] if measured else _history(job.store, entry),
        summary=_measured(entry) if measured else _scores(entry),
        answers=lambda: iter(()) if measured else _answers(entry),
    )


def _identity(job: Job) -> dict[str, Any]:
    cell = job.cell
    method = " ".join((cell.method.name, variant(cell.method.settings(), as_plain(cell.model)))).strip()
    return {
        "key": job.key,
        "row": without_home(cell.measure.describe() if cell.measure else method),
        "trained": cell.method.trains,
        "told": " ".join(filter(None, _told(cell))),
        "config": passed_on(job.plain()),
        "folder": job.options.outputs / job.tracker.name,
    }


def _told(cell: Cell) -> Iterator[str]:
    """What a run's place does not name otherwise: cells that differ in it are no seeds of one another."""
    if cell.method.trains or cell.measure:
        named = {"p", "n"} if cell.measure else {"p", "n", "lr", cell.attack.source}
        yield from (word for word in fine_tune(cell.plain()).split() if word.partition("=")[0] not in named)
    yield around_it(cell.plain(), graded=cell.graded)
    if seed := getattr(cell.model, "seed", 0):
        yield f"pair={seed}"


def _history(store: Store, entry: Entry) -> list[dict[str, float]]:
    """The logs of the training that the cell is of; empty for an untouched model and for a repaired adapter."""
    train = entry.result["stages"].get("train")
    if train is None:
        return []
    path = store.path("stages/train", train["key"]) / HISTORY_FILE
    return list(read_rows(path, Logged)) if path.is_file() else []


def _scores(entry: Entry) -> dict[str, float]:
    """Each metric's value, its interval's ends and how many rows it is over, by the metric's name in lower case."""
    summary: dict[str, float] = {}
    for name, metric in entry.result["metrics"].items():
        short = name.lower()
        summary |= {short: metric["value"], f"{short}_total": metric["total"]}
        if metric["interval"]:
            summary |= {f"{short}_lo": metric["interval"][0], f"{short}_hi": metric["interval"][1]}
    return summary


def _measured(entry: Entry) -> dict[str, float]:
    """A measure's values, with the ends of the interval around its headline where it knows one."""
    values: dict[str, float] = dict(entry.result["values"])
    if entry.result["interval"] is not None:
        values["interval_lo"], values["interval_hi"], _ = entry.result["interval"]
    return values


def _answers(entry: Entry) -> Iterator[dict[str, Any]]:
    for name, metric in entry.result["metrics"].items():
        for row in read_rows(entry.path / metric["file"], Judged):
            yield {"part": name, **row}
