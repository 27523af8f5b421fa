"""Which fine-tunes a sweep needs: told by content keys alone, hence exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from asft.cells.cell import CellConfig
from asft.cells.keys import plan, store_kind
from asft.store.entries import Store, content_key


@dataclass(frozen=True)
class Trainings:
    """A sweep's fine-tunes.

    Attributes:
        distinct: a cell that stands for each distinct fine-tune, by the key of its ``train`` stage.
        unshared: how many there would be if every cell trained everything it needs by itself.
        missing: the keys of ``distinct`` that the sweep still has to train.
    """

    distinct: dict[str, CellConfig]
    unshared: int
    missing: frozenset[str]

    @property
    def saved(self) -> int:
        """Fine-tunes that sharing saves."""
        return self.unshared - len(self.distinct)


def trainings(cells: Iterable[CellConfig]) -> Trainings:
    """The fine-tunes of distinct cells.

    A post-hoc method (Safe LoRA) trains nothing of its own; its parent's fine-tune is counted, and so is one that a
    method needs beside its own (AsFT_Alt's harmful fine-tune).
    """
    distinct: dict[str, CellConfig] = {}
    unshared = 0
    missing: set[str] = set()
    for cell in cells:
        needed = dict(_fine_tunes(cell))
        unshared += len(needed)
        for key, needing in needed.items():
            distinct.setdefault(key, needing)
        store = Store(cell.outputs)
        if store.find(store_kind(cell), plan(cell).key) is None:
            missing.update(key for key, _ in _missing(cell, store))
    return Trainings(distinct, unshared, frozenset(missing))


def steps(cell: CellConfig) -> int:
    """Optimiser steps of a cell's fine-tune on the user's rows (safety rows that a method mixes in are left out)."""
    training = cell.training
    batches = math.ceil(rows(cell) / training.batch_size)
    return math.ceil(batches / training.accumulation) * training.epochs


def rows(cell: CellConfig) -> int:
    """The user's rows in a cell's fine-tune, benign and harmful."""
    return cell.attack.benign_count() + cell.attack.harmful_count()


def _fine_tunes(cell: CellConfig) -> Iterator[tuple[str, CellConfig]]:
    """Every fine-tune that a cell needs, its own last, with the cell that stands for it."""
    if cell.measure is not None:
        for needed in cell.measured().values():
            yield from _fine_tunes(needed)
        return
    settings = plan(cell).train
    if settings is None:
        return
    required = cell.required()
    if required is not None:
        yield from _fine_tunes(required)
    if cell.method.parent is None:
        yield content_key(settings), cell


def _missing(cell: CellConfig, store: Store) -> Iterator[tuple[str, CellConfig]]:
    """Those that are not in the store; where a cell's own weights are, nothing before them is needed."""
    if cell.measure is not None:
        for needed in cell.measured().values():
            yield from _missing(needed, store)
        return
    settings = plan(cell).train
    if settings is None or store.find("stages/train", content_key(settings)):
        return
    required = cell.required()
    if required is not None:
        yield from _missing(required, store)
    if cell.method.parent is None:
        yield content_key(settings), cell
