"""Trackers: where a finished cell is shown besides the store. A tracker changes no number and no key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Tracker:
    """Base class, and ``tracker=none``: shows nothing anywhere."""

    name: ClassVar[str] = "none"

    def settings(self) -> dict[str, Any]:
        """The tracker's own settings, without secrets: keys come from the environment."""
        return dataclasses.asdict(self)

    def track(
        self,
        key: str,
        config: Mapping[str, Any],
        history: list[dict[str, float]],
        summary: Mapping[str, Any],
        folder: Path,
    ) -> None:
        """Sends one finished cell.

        Args:
            key: the cell's key; the run's identity, so that tracking twice changes nothing.
            config: the resolved configuration.
            history: training logs, one dict a logged step with its ``step``.
            summary: final metrics.
            folder: where offline files may be written.
        """


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WandbTracker(Tracker):
    """One Weights & Biases run a cell, offline unless told otherwise, its id the cell's key."""

    name: ClassVar[str] = "wandb"

    project: str = "asft-lab"
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"

    def track(
        self,
        key: str,
        config: Mapping[str, Any],
        history: list[dict[str, float]],
        summary: Mapping[str, Any],
        folder: Path,
    ) -> None:
        """See :meth:`Tracker.track`; the run is finished whatever happens in between."""
        import wandb  # slow to import, and not needed by tracker=none

        folder.mkdir(parents=True, exist_ok=True)
        model, task, method = (config[name]["name"] for name in ("model", "dataset", "method"))
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=key,
            name=f"{method} {task} p={config['attack']['p']} seed={config['seed']}",
            group=f"{model}/{task}",
            job_type=method,
            tags=[model, task, method, config["attack"]["source"]],
            config=dict(config),
            dir=folder,
            resume="allow" if self.mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        try:
            for logged in history:
                values = {f"train/{name}": value for name, value in logged.items() if name != "step"}
                run.log(values, step=int(logged["step"]))
            run.summary.update(dict(summary))
        finally:
            run.finish()
