"""A job: a cell to be computed, how it is run, where it stands in a table, and how far it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from asft.cells.cell import Cell
from asft.cells.keys import Plan, plan
from asft.config import ExperimentConfig, Options, OrganismModel, PretrainedModel, as_plain
from asft.store.entries import Entry, Store, content_key
from asft.store.heartbeat import Beat
from asft.trackers.base import Tracker

Standing = Literal["done", "running", "failed", "damaged", "interrupted", "missing"]


@dataclass(frozen=True)
class Job:
    """One cell of a command line.

    Attributes:
        cell: what decides its numbers.
        options, tracker: how it is run and shown; no key depends on them.
        experiment: how the table is laid out that it stands in, if it stands in one.
        axes: where it stands on the sweep's axes, as written.
    """

    cell: Cell
    options: Options
    tracker: Tracker = field(default_factory=Tracker)
    experiment: ExperimentConfig | None = None
    axes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def plan(self) -> Plan:
        """The settings of its stages; worked out once."""
        return plan(self.cell)

    @property
    def key(self) -> str:
        """The cell's key: that of its last stage."""
        return self.plan.key

    @property
    def store(self) -> Store:
        """The store that its results are kept in."""
        return Store(self.options.outputs)

    @property
    def device(self) -> str:
        """``options.device``; by itself an embedded pair, of a million parameters, is on the CPU."""
        small = self.options.device == "auto" and isinstance(self.cell.model, OrganismModel)
        return "cpu" if small else self.options.device

    def find(self) -> Entry | None:
        """The finished cell, if it is finished."""
        return self.store.find(self.plan.kind, self.key)

    def answered(self) -> dict[str, Entry]:
        """The answers that are stored, by the metric that asked; also of those beside the cell's own."""
        asked = {**self.plan.generate, **self.plan.asked}
        keys = {name: content_key(settings) for name, settings in asked.items()}
        found = {name: self.store.find("stages/generate", key, whole=True) for name, key in keys.items()}
        return {name: entry for name, entry in found.items() if entry}

    def beside(self) -> dict[str, Entry]:
        """The finished scores beside the cell's own, by name."""
        keys = {name: content_key(settings) for name, settings in self.plan.beside.items()}
        found = {name: self.store.find("beside", key) for name, key in keys.items()}
        return {name: entry for name, entry in found.items() if entry}

    def lacking(self) -> list[str]:
        """The scores beside the cell's own that are not there and can be had: from answers, or from kept weights."""
        plan, store, there = self.plan, self.store, self.beside()
        missing = [name for name in plan.beside if name not in there]
        kind, settings = ("pairs", plan.pair) if plan.train is None else ("stages/train", plan.train)
        published = plan.train is None and isinstance(self.cell.model, PretrainedModel)
        if not missing or published or store.find(kind, content_key(settings)):
            return missing
        return [name for name in missing if store.find("stages/generate", plan.beside[name]["answers"])]

    def is_answered(self) -> bool:
        """Whether all is stored that the cell's own metrics have asked."""
        return self.answered().keys() >= self.plan.generate.keys()

    def of(self, cell: Cell) -> Job:
        """Another cell, run in the same way."""
        return dataclasses.replace(self, cell=cell)

    def plain(self) -> dict[str, Any]:
        """The whole configuration as plain data, for manifests and trackers."""
        return {
            **self.cell.plain(),
            **as_plain(self.options),
            "tracker": self.tracker.settings(),
            "experiment": as_plain(self.experiment),
        }


@dataclass(frozen=True, slots=True)
class CellState:
    """One cell's standing; ``entry`` where it is done, ``beat`` where it runs, ``reason`` where it has none."""

    cell: Cell
    standing: Standing
    entry: Entry | None = None
    beat: Beat | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """The method, or what is measured; cells of one name cost alike."""
        return self.cell.method.name if self.cell.measure is None else self.cell.measure.name


def state_of(job: Job, beats: Mapping[str, Beat] | None = None) -> CellState:
    """Reads a cell's standing from its store.

    With ``beats``, the latest of each cell at work, no other is read: what was interrupted is called missing.
    """
    store, key, cell = job.store, job.key, job.cell
    if entry := job.find():
        return CellState(cell, "done", entry=entry)
    if beat := store.working(key) if beats is None else beats.get(key):
        return CellState(cell, "running", beat=beat)
    if reason := store.failure(key):
        return CellState(cell, "failed", reason=reason)
    if reason := store.damage(job.plan.kind, key):
        return CellState(cell, "damaged", reason=reason)
    if beats is None and (beat := store.interrupted(key)):
        return CellState(cell, "interrupted", reason=beat.progress)
    return CellState(cell, "missing")
