"""A cell: one configuration that is trained and scored, and nothing that does not decide its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.backends.base import Backend, HFBackend
from asft.config import Name, Plugin, PretrainedModel, Settings, as_plain
from asft.data.base import Attack, DataSource, Task, source_of, task_of
from asft.jailbreaks.base import Jailbreak
from asft.judges.base import Grader, Judge
from asft.measures.base import Measure
from asft.methods.base import FineTune, Method
from asft.metrics.base import Metric
from asft.trackers.base import Tracker

# What is a class named by its YAML, with its base class; third parties plug in here.
PLUGINS: dict[str, type[Plugin]] = {
    "dataset": Task,
    "data": DataSource,
    "attack": Attack,
    "method": Method,
    "jailbreak": Jailbreak,
    "backend": Backend,
    "judge": Judge,
    "grader": Grader,
    "tracker": Tracker,
    "measure": Measure,
}
OPTIONAL = {"measure"}


@dataclass(frozen=True)
class Cell(Settings):
    """All that decides the numbers of one cell; the keys of its stages are hashes of parts of it.

    Attributes:
        metrics: what the cell is scored by.
        beside: further metrics, each kept on its own: a finished cell has them or not, and its key is the same.
    """

    method: Method
    jailbreak: Jailbreak
    backend: Backend
    judge: Judge
    grader: Grader
    metrics: Annotated[dict[Name, Metric], Field(min_length=1)]
    measure: Measure | None = None
    beside: dict[Name, Metric] = dataclasses.field(default_factory=dict)

    def required(self) -> dict[str, Cell]:
        """The cells whose trained weights the method or its start needs, by name."""
        needed = {**self.begun(), **self.method.requires(self)}
        return {name: self.fine_tune(tune) for name, tune in needed.items()}

    def begun(self) -> Mapping[str, FineTune]:
        """The fine-tunes that the checkpoint is made of that training begins from, by name."""
        start = self.method.start()
        return {} if isinstance(start, str) else start.requires(self)

    def measured(self) -> dict[str, Cell]:
        """The cells whose trained weights the measure needs, by name."""
        needed = self.measure.requires(self) if self.measure else {}
        return {name: self.fine_tune(tune) for name, tune in needed.items()}

    def fine_tune(self, tune: FineTune) -> Cell:
        """This cell with another fine-tune in place of its own."""
        seed = self.seed if tune.seed is None else tune.seed
        return dataclasses.replace(
            self,
            method=tune.method,
            attack=tune.attack or self.attack,
            training=tune.training or self.training,
            seed=seed,
            measure=None,
        )

    def backend_of(self, metric: Metric) -> Backend:
        """Who answers: transformers where the likelihood of options is asked for, which other backends cannot tell."""
        return self.backend if self.backend.measures or not metric.chooses else HFBackend()

    @property
    def merges(self) -> bool:
        """Whether an adapter is merged into its start before it answers, as under ``protocol=official``.

        Not into a published checkpoint's 16-bit weights: they lie on a grid, and what an update changes by less than
        half a step is rounded away, of a small update most.
        """
        if not isinstance(self.model, PretrainedModel) or self.protocol.name == "official":
            return True
        return (self.evaluation.dtype or self.model.dtype) == "float32"

    @property
    def graded(self) -> bool:
        """Whether FA is asked for and comes from ``grader``: free-form answers to real prompts have no rule."""
        return any(metric.name == "FA" for metric in self.metrics.values()) and task_of(self).graded(source_of(self))

    def plain(self) -> dict[str, Any]:
        """The cell as plain data, plug-ins by their identities; what manifests and trackers keep.

        A metric's part (its judge) that is the cell's own stands there once.
        """
        plain: dict[str, Any] = as_plain(self)
        metrics = {
            name: {key: part for key, part in settings.items() if not isinstance(part, dict) or part != plain.get(key)}
            for name, settings in plain["metrics"].items()
        }
        return {**plain, "metrics": metrics}
