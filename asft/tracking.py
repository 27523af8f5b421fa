"""Trackers: where a finished cell is shown besides the store. A tracker changes no number and no key."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class TrackedCell:
    """A finished cell as a tracker sees it.

    Attributes:
        key: the cell's key; the run's identity, so that tracking twice changes nothing.
        config: the resolved configuration.
        history: training logs, one dict a logged step with its ``step``; empty where nothing was trained for it.
        summary: the scores, with the ends of their 95% intervals.
        answers: reads the judged answers, each with its ``part``; they may be harmful.
        folder: where offline files may be written.
    """

    key: str
    config: Mapping[str, Any]
    history: list[dict[str, float]]
    summary: Mapping[str, Any]
    answers: Callable[[], Iterable[Row]]
    folder: Path

    @property
    def place(self) -> str:
        """The cell's place in a table without method and seed: what the seeds of one entry have in common."""
        config = self.config
        attack, lam = config["attack"], config["method"].get("lam")
        poison = f"{attack['source']} p={attack['p']:g} n={attack['n']}"
        strength = "" if lam is None else f" λ={lam:g}"
        return (
            f"{config['model']['name']} {config['dataset']['name']} {poison} lr={config['training']['lr']:g}{strength}"
        )

    @property
    def tags(self) -> list[str]:
        """The experiment, model, task, harmful source, judge and protocol, each by name."""
        config = self.config
        names = [config[part]["name"] for part in ("model", "dataset", "judge", "protocol") if config.get(part)]
        experiment = config.get("experiment")
        return [*([experiment["name"]] if experiment else []), *names, config["attack"]["source"]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Tracker:
    """Base class, and ``tracker=none``: shows nothing anywhere."""

    name: ClassVar[str] = "none"

    def settings(self) -> dict[str, Any]:
        """The tracker's own settings, without secrets: keys come from the environment."""
        return dataclasses.asdict(self)

    def track(self, cell: TrackedCell) -> None:
        """Sends one finished cell."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WandbTracker(Tracker):
    """One Weights & Biases run a cell, offline unless told otherwise, its id the cell's key.

    Grouping a project by job type (the method) and then by group (the place) gives a table's rows and columns, each
    averaged over its seeds. ``generations`` adds the judged answers as a Table; they may be harmful.
    """

    name: ClassVar[str] = "wandb"

    project: str = "asft-lab"
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"
    generations: bool = False

    def track(self, cell: TrackedCell) -> None:
        """See :meth:`Tracker.track`; the run is finished whatever happens in between."""
        cell.folder.mkdir(parents=True, exist_ok=True)
        if self.mode == "offline":
            for earlier in (cell.folder / "wandb").glob(f"offline-run-*-{cell.key}"):
                shutil.rmtree(earlier)  # one set of files a cell, however often it is tracked
        run = self._start(cell)
        try:
            for logged in cell.history:
                values = {f"train/{name}": value for name, value in logged.items() if name != "step"}
                run.log(values, step=int(logged["step"]))
            if self.generations:
                run.log({"answers": _table(cell.answers())})
            run.summary.update(dict(cell.summary))
        finally:
            run.finish()

    def _start(self, cell: TrackedCell) -> Run:
        import wandb  # slow to import, and not needed by tracker=none

        method = cell.config["method"]["name"]
        return wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=cell.key,
            name=f"{method} {cell.place} seed={cell.config['seed']}",
            group=cell.place,
            job_type=method,
            tags=cell.tags,
            config=dict(cell.config),
            dir=cell.folder,
            resume="allow" if self.mode == "online" else None,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_meta=True,  # host, user and command line are nobody's business
                x_disable_stats=True,  # the cell ran elsewhere, or before
            ),
        )


def _table(answers: Iterable[Row]) -> Any:
    """The judged answers as a W&B Table; what a row lacks (a task has no verdict) is None."""
    import wandb

    columns = ["part", "id", "prompt", "answer", "flagged", "credit", "reason"]
    return wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in answers])


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TensorBoardTracker(Tracker):
    """One TensorBoard run a cell, written anew each time; needs the extra ``tensorboard``."""

    name: ClassVar[str] = "tensorboard"

    def track(self, cell: TrackedCell) -> None:
        """See :meth:`Tracker.track`.

        Raises:
            ValueError: when tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tracker=tensorboard: install it, `pip install 'asft-lab[tensorboard]'`") from error
        folder = cell.folder / f"{cell.config['method']['name']}-{cell.key}"
        shutil.rmtree(folder, ignore_errors=True)
        with SummaryWriter(folder) as writer:
            for logged in cell.history:
                for name, value in logged.items():
                    if name != "step":
                        writer.add_scalar(f"train/{name}", value, int(logged["step"]))
            for name, value in cell.summary.items():
                writer.add_scalar(f"cell/{name}", value)
            writer.add_text("config", f"```json\n{json.dumps(cell.config, indent=1, default=str)}\n```")
