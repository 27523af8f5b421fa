"""Which fine-tunes a sweep needs: told by content keys alone, hence exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from asft.cells.cell import Cell
from asft.cells.job import Job
from asft.cells.keys import plan
from asft.methods.post_hoc import PostHoc
from asft.store.entries import Store, content_key


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
    distinct: dict[str, Cell] = {}
    unshared = 0
    missing: set[str] = set()
    for job in jobs:
        needed = dict(_fine_tunes(job.cell))
        unshared += len(needed)
        distinct |= {**needed, **distinct}
        if job.find() is None:
            missing.update(key for key, _ in _fine_tunes(job.cell, job.store))
    return Trainings(distinct, unshared, frozenset(missing))


def steps(cell: Cell) -> int:
    """Optimiser steps of a cell's fine-tune on the user's rows (safety rows that a method mixes in are left out)."""
    training = cell.training
    batches = math.ceil(rows(cell) / training.batch_size)
    return math.ceil(batches / training.accumulation) * training.epochs


def rows(cell: Cell) -> int:
    """The user's rows in a cell's fine-tune, benign and harmful."""
    return cell.attack.benign_count() + cell.attack.harmful_count()


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
