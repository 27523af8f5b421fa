"""From the store to trackers: a finished cell with its training logs, scores, intervals and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from asft.collect import GRADED_TASKS
from asft.report.statistics import wilson
from asft.store import HARMFUL_FILE, HISTORY_FILE, TASK_FILE, Entry, Store, read_jsonl
from asft.tracking import TrackedCell


def tracked_cell(store: Store, entry: Entry, config: Mapping[str, Any]) -> TrackedCell:
    """What a tracker is given of a finished cell; ``config`` is the configuration that asked for it."""
    return TrackedCell(
        key=entry.manifest["key"],
        config=config,
        history=_history(store, entry),
        summary=_summary(entry.result["metrics"], graded=config["dataset"]["name"] in GRADED_TASKS),
        answers=lambda: _answers(entry),
        folder=store.root / config["tracker"]["name"],
    )


def _history(store: Store, entry: Entry) -> list[dict[str, float]]:
    """The logs of the training that the cell is of; empty for an untouched model and for a repaired adapter."""
    train = entry.result["stages"].get("train")
    if train is None:
        return []
    path = store.path("stages/train", train["key"]) / HISTORY_FILE
    return list(read_jsonl(path)) if path.is_file() else []


def _summary(metrics: Mapping[str, Any], graded: bool) -> dict[str, float]:
    """The scores and Wilson's intervals; a graded task has none, it is no count."""
    hs = wilson(metrics["hs_flagged"], metrics["hs_total"])
    summary = {**metrics, "hs_lo": hs.lo, "hs_hi": hs.hi}
    if not graded:
        fa = wilson(round(metrics["fa"] * metrics["fa_total"] / 100), metrics["fa_total"])
        summary |= {"fa_lo": fa.lo, "fa_hi": fa.hi}
    return summary


def _answers(entry: Entry) -> Iterator[dict[str, Any]]:
    for part, name in (("harmful", HARMFUL_FILE), ("task", TASK_FILE)):
        for row in read_jsonl(entry.path / name):
            yield {"part": part, **row}
