"""A cell: one trained and scored configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from asft.backends.base import Backend
from asft.config import ExperimentConfig, Settings
from asft.jailbreaks.base import Jailbreak
from asft.judges.base import Judge
from asft.judges.grader import Grader
from asft.measures.base import Measure
from asft.methods.base import FineTune, Method
from asft.trackers.base import Tracker

# The parts of a cell that are classes named by their YAML, with their base classes; third parties plug in here.
PLUGINS: dict[str, type[Any]] = {
    "method": Method,
    "jailbreak": Jailbreak,
    "backend": Backend,
    "judge": Judge,
    "grader": Grader,
    "tracker": Tracker,
}
OPTIONAL_PLUGINS: dict[str, type[Any]] = {"measure": Measure}


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class CellConfig(Settings):
    """One trained and scored configuration: everything that can change its numbers, and where it is kept."""

    method: Method
    jailbreak: Jailbreak
    backend: Backend
    judge: Judge
    grader: Grader
    tracker: Tracker
    lam: Annotated[float, Field(ge=0)]
    outputs: Path
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: Annotated[float, Field(ge=0)] = 60.0
    experiment: ExperimentConfig | None = None
    measure: Measure | None = None

    def required(self) -> CellConfig | None:
        """The cell whose trained weights the method needs, if it needs any."""
        needed = self.method.requires(self)
        return self.fine_tune(needed) if needed else None

    def measured(self) -> dict[str, CellConfig]:
        """The cells whose trained weights the measure needs, by name."""
        needed = self.measure.requires(self) if self.measure else {}
        return {name: self.fine_tune(tune) for name, tune in needed.items()}

    def fine_tune(self, tune: FineTune) -> CellConfig:
        """This cell with another fine-tune in place of its own."""
        seed = self.seed if tune.seed is None else tune.seed
        return dataclasses.replace(self, method=tune.method, attack=tune.attack or self.attack, seed=seed, measure=None)

    @property
    def graded(self) -> bool:
        """Whether FA comes from ``grader``: free-form answers on real data, for which there is no rule."""
        return self.dataset.name == "alpaca" and self.data.root is not None

    def plain(self) -> dict[str, Any]:
        """The configuration as plain data, plug-ins by name and class; what manifests and trackers keep."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tree = {name: _as_plain(part) for name, part in parts.items()}
        for name in PLUGINS:
            tree[name] = {"name": parts[name].name, **parts[name].settings()}
        if self.measure is not None:
            tree["measure"] = {"name": self.measure.name, **self.measure.settings()}
        return {**tree, "outputs": str(self.outputs)}


def _as_plain(part: Any) -> Any:
    return dataclasses.asdict(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else part
