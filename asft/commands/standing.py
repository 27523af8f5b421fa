"""Where the cells of a sweep stand: done, running, failed, damaged or missing, and how long the rest may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from asft.cells.cell import Cell
from asft.cells.job import Job
from asft.store.entries import Entry
from asft.store.heartbeat import Beat

Standing = Literal["done", "running", "failed", "damaged", "missing"]


@dataclass(frozen=True, slots=True)
class CellState:
    """One cell's standing; ``entry`` where it is done, ``beat`` where it runs, ``reason`` where it has none."""

    cell: Cell
    standing: Standing
    entry: Entry | None = None
    beat: Beat | None = None
    reason: str = ""


def state_of(job: Job) -> CellState:
    """Reads a cell's standing from its store."""
    store, key, cell = job.store, job.key, job.cell
    if entry := job.find():
        return CellState(cell, "done", entry=entry)
    if beat := store.working(key):
        return CellState(cell, "running", beat=beat)
    if reason := store.failure(key):
        return CellState(cell, "failed", reason=reason)
    if reason := store.damage(job.plan.kind, key):
        return CellState(cell, "damaged", reason=reason)
    return CellState(cell, "missing")


def seconds_left(states: Mapping[str, CellState]) -> float | None:
    """An estimate from what finished cells of the same method took, shared among those now at work.

    None where nothing is finished yet to learn from, or nothing is left.
    """
    costs: dict[str, list[float]] = {}
    for state in states.values():
        if state.entry:
            costs.setdefault(_sort(state.cell), []).append(cost(state.entry))
    left = [state for state in states.values() if state.standing != "done"]
    if not costs or not left:
        return None
    overall = fmean(cost for found in costs.values() for cost in found)
    total = sum(fmean(costs.get(_sort(state.cell), [overall])) for state in left)
    workers = sum(state.standing == "running" for state in left)
    return total / max(1, workers)


def _sort(cell: Cell) -> str:
    """What cells of like cost have in common."""
    return cell.method.name if cell.measure is None else cell.measure.name


def cost(entry: Entry) -> float:
    """Seconds of a finished cell's stages, shared ones included."""
    return entry.seconds + sum(stage["seconds"] for stage in entry.result.get("stages", {}).values())


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
