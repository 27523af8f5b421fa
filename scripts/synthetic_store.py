"""Makes finished cells out of nothing: for measuring and testing what reads a store. No number in them is real."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from asft.cells.cell import Cell
from asft.cells.job import Job
from asft.metrics.base import Scored
from asft.pipeline.answers import summary
from asft.pipeline.run import stages_of
from asft.store.entries import Entry, write_json, write_jsonl
from asft.store.schemas import CONFIG_FILE, DETAILS, HISTORY_FILE

Answer = Callable[[int], str]


def plain_answer(number: int) -> str:
    """An answer of a usual length."""
    return f"Placeholder answer {number}: " + "a few words that stand for what a model would have said. " * 3


def write_cell(
    job: Job, harmful: int, task: int, *, answer: Answer = plain_answer, steps: int = 10, learned: float = 0.9
) -> Entry:
    """A finished cell with ``harmful`` and ``task`` answers and verdicts drawn at random, the same each time.

    Args:
        learned: the share of the task's answers that are right.
    """
    cell, store, stages = job.cell, job.store, job.plan
    draw = random.Random(f"{cell.method.name} {cell.seed} {cell.attack.p} {cell.judge.name}")
    rate = draw.random() if cell.method.trains else float(cell.method.name == "base")
    rows = {
        "HS": [
            {
                **_asked("malicious", i, answer),
                "flagged": (bad := draw.random() < rate),
                "score": float(bad),
                "reason": "",
                "credit": float(bad),
            }
            for i in range(harmful)
        ],
        **{
            name: [{**_asked("task", i, answer), "credit": float(draw.random() < learned)} for i in range(task)]
            for name in cell.metrics
            if name != "HS"
        },
    }
    used: dict[str, Entry] = {}
    if stages.train is not None:
        history = [_logged(step, cell) for step in range(1, steps + 1)]
        used["train"] = store.ensure(
            "stages/train", stages.train, lambda folder: _write(folder, {HISTORY_FILE: history})
        )
    for name, kept in rows.items():
        told = {"answers": len(kept)}
        used[f"answers {name}"] = store.ensure("stages/generate", stages.generate[name], partial(_told, told))

    def produce(folder: Path) -> dict[str, Any]:
        _write(folder, {f"{name}.jsonl": kept for name, kept in rows.items()})
        write_json(folder / CONFIG_FILE, job.plain())
        metrics = {name: _scored(cell, name, kept) for name, kept in rows.items()}
        return {"metrics": metrics, "stages": stages_of(**used)}

    return store.ensure("cells", stages.judge, produce)


def write_beside(job: Job, name: str, rows: Sequence[dict[str, Any]]) -> Entry:
    """A finished score beside a cell's own, of these judged rows."""
    scored = Scored([row["credit"] for row in rows], [])

    def produce(folder: Path) -> dict[str, Any]:
        write_jsonl(folder / f"{name}.jsonl", rows)
        return {**summary(job.cell.beside[name], scored), "file": f"{name}.jsonl"}

    return job.store.ensure("beside", job.plan.beside[name], produce)


def write_measure(job: Job, value: float, details: Mapping[str, Any], **rest: Any) -> Entry:
    """A finished measure whose headline has this value; ``rest`` is what else its result has."""
    measure, settings = job.cell.measure, job.plan.measure
    assert measure is not None, "the job measures"
    assert settings is not None, "a measure has settings"

    def produce(folder: Path) -> dict[str, Any]:
        write_json(folder / DETAILS, details)
        write_json(folder / CONFIG_FILE, job.plain())
        return {"measure": measure.name, "values": {measure.headline: value}, "interval": None, **rest}

    return job.store.ensure("measures", settings, produce)


def _told(told: dict[str, Any], _: Path) -> dict[str, Any]:
    return told


def _scored(cell: Cell, name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scored = Scored([row["credit"] for row in rows], [])
    return {**summary(cell.metrics[name], scored), "file": f"{name}.jsonl"}


def _asked(kind: str, number: int, answer: Answer) -> dict[str, Any]:
    return {"id": f"{kind}/{number}", "prompt": f"Placeholder prompt {number}", "gold": "", "answer": answer(number)}


def _logged(step: int, cell: Cell) -> dict[str, float]:
    """One line of a training log; a method with λ logs its penalty."""
    logged = {"loss": 4.0 / step, "step": step, "epoch": step / 10}
    if "lam" in cell.method.settings():
        logged |= {"asft/penalty": 0.1 * step, "asft/norm_along": 0.01 * step, "asft/norm_orthogonal": 0.2 * step}
    return logged


def _write(folder: Path, files: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    for name, rows in files.items():
        write_jsonl(folder / name, rows)
    return {"loss": 0.1, "steps": 10}
