"""From stored answers to a cell's scores, metric by metric."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asft.cells.cell import Cell
from asft.metrics.base import Metric, Scored
from asft.store.entries import ANSWERS_FILE, Entry, read_jsonl, write_jsonl
from asft.store.partial import PartialRows


def judge_answers(cell: Cell, answers: Mapping[str, Entry], folder: Path, kept: Path) -> dict[str, Any]:
    """Scores what was answered and writes the answers again to ``folder``, each with its credit and verdict.

    Args:
        answers: the generate stage of each metric.
        kept: folder of an interrupted run's verdicts; each new one is added.

    Returns:
        What the manifest keeps of each metric, by name.

    Raises:
        ValueError: when a metric cannot be scored.
    """
    found = {}
    for name, metric in cell.metrics.items():
        file = f"{name}.jsonl"
        rows = list(read_jsonl(answers[name].path / ANSWERS_FILE))
        scored = metric.score(cell, rows, PartialRows(kept / file))
        credited = zip(rows, scored.details, scored.credits, strict=True)
        write_jsonl(folder / file, ({**row, **more, "credit": credit} for row, more, credit in credited))
        found[name] = {**summary(metric, scored), "file": file}
    return found


def summary(metric: Metric, scored: Scored) -> dict[str, Any]:
    """Value in percent, interval and counts, and what a table needs to show them."""
    interval = scored.interval
    return {
        "value": scored.value,
        "total": len(scored.known),
        "count": round(sum(scored.known)) if scored.counts else None,
        "interval": [interval.lo, interval.hi, interval.kind] if interval else None,
        "label": metric.label,
        "about": metric.about,
        "lower_is_better": metric.lower_is_better,
        "told": dict(scored.told),
    }
