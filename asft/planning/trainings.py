"""Which fine-tunes a sweep needs, told by content keys alone, hence exactly; and how long what is still to do takes,
learned from the store's finished cells of the same model, else not known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from asft.cells.cell import Cell
from asft.cells.job import Job
from asft.cells.keys import plan
from asft.methods.post_hoc import PostHoc
from asft.store.entries import Entry, Store, content_key
from asft.store.errors import DamagedEntry
from asft.store.schemas import CONFIG_FILE, Config, read_document


@dataclass(frozen=True)
class Trainings:
    """A sweep's fine-tunes.

    Attributes:
        distinct: a cell that stands for each distinct fine-tune, by the key of its ``train`` stage.
        unshared: how many there would be if every cell trained everything it needs by itself.
        missing: the keys of ``distinct`` that the sweep still has to train.
    """

    distinct: dict[str, Cell]
    unshared: int
    missing: frozenset[str]

    @property
    def saved(self) -> int:
        """Fine-tunes that sharing saves."""
        return self.unshared - len(self.distinct)


def trainings(jobs: Iterable[Job]) -> Trainings:
    """The fine-tunes of distinct cells.

    A post-hoc method (Safe LoRA) trains nothing of its own; what it comes after is counted, and so is a fine-tune that
    a method needs beside its own (AsFT_Alt's harmful fine-tune).
    """
    distinct, unshared, missing = dict[str, Cell](), 0, set[str]()
    for job in jobs:
        needed = dict(_fine_tunes(job.cell))
        unshared += len(needed)
        distinct |= {**needed, **distinct}
        if job.find() is None and not (job.cell.measure is None and job.is_answered()):  # answers are judged alone
            missing.update(key for key, _ in _fine_tunes(job.cell, job.store))
    return Trainings(distinct, unshared, frozenset(missing))


def steps(cell: Cell) -> int:
    """Optimiser steps of a cell's fine-tune on the user's rows (safety rows that a method mixes in are left out)."""
    training = cell.training
    batches = math.ceil((cell.attack.benign_count() + cell.attack.harmful_count()) / training.batch_size)
    return math.ceil(batches / training.accumulation) * training.epochs


def _fine_tunes(cell: Cell, store: Store | None = None) -> Iterator[tuple[str, Cell]]:
    """Every fine-tune that a cell needs, its own last, with the cell that stands for it.

    With a store those that are not in it: where a cell's own weights are, nothing before them is needed.
    """
    for needed in cell.measured().values():
        yield from _fine_tunes(needed, store)
    settings = plan(cell).train
    if cell.measure is not None or settings is None:
        return
    key = content_key(settings)
    if store is not None and store.find("stages/train", key):
        return
    for needed in cell.required().values():
        yield from _fine_tunes(needed, store)
    if not isinstance(cell.method, PostHoc):
        yield key, cell


# Seconds of finished work by what it was and of which kind: ("step", method), ("token", task), ("judge", name),
# ("repair", method), ("measure", name). Medians are used: a machine that was busy otherwise leaves outliers.
_ASKED = ("backend", "jailbreak")  # a disguised cell copies the answers to the task's rows
Learned = Mapping[tuple[str, str], list[float]]


def learned(job: Job) -> tuple[Learned, int]:
    """What finished cells of the job's model on its device took, and how many there are."""
    return learned_of(job.store, job.plain())


def learned_of(store: Store, wanted: Mapping[str, Any]) -> tuple[Learned, int]:
    """The same by a configuration; of the model as much is compared as that says, but for its recipe of settings."""
    found, count, seen = defaultdict[tuple[str, str], list[float]](list), 0, set()
    compared = wanted["model"].keys() - {"recipe"}
    for entry, config in [*_finished(store, "cells"), *_finished(store, "measures")]:
        if config["device"] != wanted["device"]:
            continue
        if any(config["model"].get(name) != wanted["model"][name] for name in compared):
            continue
        count += 1
        method, task = config["method"]["name"], config["dataset"]["name"]
        if config.get("measure"):
            found["measure", config["measure"]["name"]].append(entry.seconds)
            continue
        found["judge", config["judge"]["name"]].append(entry.seconds)
        stages = dict(entry.result["stages"])
        asked = [stages.pop(name) for name in list(stages) if name.startswith("answers")]
        together = {"key": [stage["key"] for stage in asked], "seconds": sum(stage["seconds"] for stage in asked)}
        for stage in (*stages.values(), {**together, "result": {}}):
            result, seconds = stage["result"], stage["seconds"]
            if str(stage["key"]) in seen:
                continue
            seen.add(str(stage["key"]))
            if "after" in result:
                found["repair", method].append(seconds)
            elif "steps" in result and config["training"]["name"] == wanted["training"]["name"]:
                found["step", method].append(seconds / result["steps"])
            elif "steps" not in result and all(config[part]["name"] == wanted[part]["name"] for part in _ASKED):
                found["token", task].append(seconds / max(1, answer_tokens(config)))
    return found, count


def seconds_left(fine_tunes: Collection[Cell], cells: Collection[Cell], known: Learned) -> dict[str, float | None]:
    """Seconds of the fine-tunes and cells that are still to do, by part; None for what nothing finished tells."""
    scored = [cell for cell in cells if cell.measure is None]
    measures = [cell.measure.name for cell in cells if cell.measure is not None]
    repairs = [_like(known, "repair", cell.method.name) or 0.0 for cell in scored if isinstance(cell.method, PostHoc)]
    verdicts = [_like(known, "judge", cell.judge.name, alone=True) or 0.0 for cell in scored]
    parts = {
        "training": [_times(steps(cell), _like(known, "step", cell.method.name)) for cell in fine_tunes],
        "answers and verdicts": [
            _times(answer_tokens(cell.plain()), _like(known, "token", cell.dataset.name)) for cell in scored
        ],
        "measures": [_like(known, "measure", name, alone=True) for name in measures],
    }
    found = {name: None if None in each else sum(filter(None, each)) for name, each in parts.items() if each}
    if (answers := found.get("answers and verdicts")) is not None:
        found["answers and verdicts"] = answers + sum(repairs) + sum(verdicts)
    return found


def longest(jobs: Iterable[Job], known: Learned) -> float | None:
    """Seconds of the cell that takes longest with all fine-tunes that it waits for; None where nothing tells.

    However many workers share a sweep out, it takes as long.
    """
    each = []
    for job in jobs:
        before = [cell for _, cell in dict(_fine_tunes(job.cell, job.store)).items()]
        parts = seconds_left(before, [job.cell], known).values()
        each.append(None if None in parts else sum(filter(None, parts)))
    return None if None in each else max(filter(None, each), default=0.0)


def answer_tokens(config: Mapping[str, Any]) -> int:
    """Tokens that a cell generates at most: answers that end early make it less."""
    evaluation, dataset = config["evaluation"], config["dataset"]
    harmful = evaluation["n_harmful"] * evaluation["harmful_max_new_tokens"]
    return int(harmful + dataset["n_test"] * dataset["max_new_tokens"])


def answering(known: Learned) -> float | None:
    """Seconds of an answer's token."""
    return _like(known, "token", "")


def _like(known: Learned, what: str, name: str, *, alone: bool = False) -> float | None:
    """The median of the same kind, unless ``alone`` else of any kind; None where nothing is finished."""
    any_kind = [] if alone else [value for (other, _), values in known.items() if other == what for value in values]
    values = known.get((what, name)) or any_kind
    return median(values) if values else None


def _times(count: int, seconds: float | None) -> float | None:
    return None if seconds is None else count * seconds


def _finished(store: Store, kind: str) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Each finished cell of a kind with its resolved configuration."""
    for folder in sorted((store.root / kind).glob("*/")):
        with suppress(DamagedEntry):
            if entry := store.read(kind, folder.name):
                yield entry, read_document(folder / CONFIG_FILE, Config)
