"""Trackers: where a cell is shown besides the store. A tracker changes no number and no key.

A cell has one run, opened by :meth:`Tracker.start`: while the cell is trained, or afterwards by
:meth:`Tracker.track`. Both go through the same calls, so that what a run holds in the end is the same.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from asft.config import Plugin

Row = Mapping[str, Any]
_TOLD_BY_ROW = {"name", "code", "seed", "update", "direction", "along", "x", "y"}  # of a measure's settings
_PATIENCE = 600.0  # seconds that the end of a run waits for what is still to be sent
_FLUSH = 10  # seconds between two writes of TensorBoard's events
# How a cell is trained, asked and judged unless it says otherwise; cells that differ in it are no seeds of one another.
USUAL = {"jailbreak": "none", "backend": "hf", "judge": "refusal", "protocol": "clean"}


def unusual(names: Mapping[str, str]) -> str:
    """Those of the parts in :data:`USUAL` that are not as usual, each with a space before it; ``names`` is by part."""
    return "".join(f" {part}={name}" for part, name in names.items() if name != USUAL[part])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """Who a cell is to a tracker; known before anything of it is computed.

    Attributes:
        key: the cell's key; the run's identity, so that tracking twice changes nothing.
        row: the cell's row in a table: its method, or what it measures.
        trained: whether its model is fine-tuned; an untouched one depends on no attack.
        told: in words, what else differs from the usual: of the training, and the pair's seed.
        config: the resolved configuration, without how and where the cell is run.
        folder: where offline files may be written.
    """

    key: str
    row: str
    trained: bool
    told: str
    config: Mapping[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The run in one line."""
        return f"{self.row} {self.place} seed={self.config['seed']}"

    @property
    def place(self) -> str:
        """The cell's place in a table without row and seed: what the seeds of one entry have in common."""
        return " ".join(filter(None, (self._usual_place, self.told)))

    @property
    def _usual_place(self) -> str:
        config, attack = self.config, self.config["attack"]
        asked = unusual({part: config[part]["name"] for part in USUAL if part in config})  # older ones lack some
        if measure := config["measure"]:
            spelled = (f"{name}={value}" for name, value in measure.items() if name not in _TOLD_BY_ROW)
            return " ".join((config["model"]["name"], f"n={attack['n']}", *spelled)) + asked
        if not self.trained:
            return f"{config['model']['name']} {config['dataset']['name']} not fine-tuned{asked}"
        lam = config["method"].get("lam")
        poison = f"{attack['source']} p={attack['p']:g} n={attack['n']}"
        strength = "" if lam is None else f" λ={lam:g}"
        learned = f"{config['dataset']['name']} {poison} lr={config['training']['lr']:g}{strength}"
        return f"{config['model']['name']} {learned}{asked}"

    @property
    def tags(self) -> list[str]:
        """The experiment, model, task, harmful source, judge and protocol, each by name."""
        config = self.config
        names = [config[part]["name"] for part in ("model", "dataset", "judge", "protocol") if config.get(part)]
        experiment = config.get("experiment")
        return [*([experiment["name"]] if experiment else []), *names, config["attack"]["source"]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrackedCell(CellRun):
    """A finished cell as a tracker sees it.

    Attributes:
        history: training logs, one dict a logged step with its ``step``; empty where nothing was trained for it.
        summary: the scores with the ends of their 95% intervals, or a measure's values.
        answers: reads the judged answers, each with its ``part``; they may be harmful.
    """

    history: list[dict[str, float]]
    summary: Mapping[str, Any]
    answers: Callable[[], Iterable[Row]]


class OpenRun:
    """A run that takes a cell's logs and then its scores; this one shows them nowhere.

    Attributes:
        next_step: the first step that the run does not have yet.
    """

    next_step = 0

    def log(self, entry: Mapping[str, float]) -> None:
        """Adds one entry of the training log; one whose step the run has already is left out."""
        step = int(entry["step"])
        if step >= self.next_step:
            self.add({f"train/{name}": value for name, value in entry.items() if name != "step"}, step)
            self.next_step = step + 1

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Shows one step's values."""

    def end(self, cell: TrackedCell) -> None:
        """Adds the scores and closes the run as finished."""

    def fail(self) -> None:
        """Closes the run as failed; the next attempt at the cell goes on with it."""


@dataclass(frozen=True)
class Tracker(Plugin):
    """Base class, and ``tracker=none``: shows nothing anywhere. A tracker overrides :meth:`start`."""

    name: ClassVar[str] = "none"

    def start(self, cell: CellRun) -> OpenRun:
        """Opens the cell's run, or goes on with it."""
        return OpenRun()

    def track(self, cell: TrackedCell) -> None:
        """Sends one finished cell."""
        run = self.start(cell)
        try:
            for entry in cell.history:
                run.log(entry)
            run.end(cell)
        except BaseException:
            run.fail()
            raise


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WandbTracker(Tracker):
    """One Weights & Biases run a cell, offline unless told otherwise, its id the cell's key.

    Grouping a project by job type (the row) and then by group (the place) gives a table's rows and columns, each
    averaged over its seeds. ``generations`` adds the judged answers as a Table; they may be harmful.
    """

    name: ClassVar[str] = "wandb"

    project: str = "asft-lab"
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"
    generations: bool = False

    def start(self, cell: CellRun) -> OpenRun:
        """See :meth:`Tracker.start`; offline files of an earlier attempt are replaced."""
        import wandb  # slow to import, and not needed by tracker=none

        cell.folder.mkdir(parents=True, exist_ok=True)
        online = self.mode == "online"
        if not online:
            for earlier in (cell.folder / "wandb").glob(f"offline-run-*-{cell.key}"):
                shutil.rmtree(earlier)  # one set of files a cell, however often it is tracked
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=cell.key,
            name=cell.name,
            group=cell.place,
            job_type=cell.row,
            tags=None if online else cell.tags,
            config=dict(cell.config),
            dir=cell.folder,
            resume="allow" if online else None,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_meta=True,  # host, user and command line are nobody's business
                x_disable_stats=True,  # the cell may have run elsewhere, or before
                finish_timeout=_PATIENCE,
                finish_timeout_raises=True,  # a network that is gone must not hold up the next cell
            ),
        )
        if online:  # tags given at the start would replace those of another experiment that has this cell, too
            run.tags = tuple(dict.fromkeys([*(run.tags or ()), *cell.tags]))
        return _WandbRun(run, self.generations)


class _WandbRun(OpenRun):
    def __init__(self, run: Any, generations: bool) -> None:
        self.run, self.generations = run, generations
        self.next_step = run.starting_step  # above 0 where an earlier attempt has been sent to the server

    def add(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step, commit=True)

    def end(self, cell: TrackedCell) -> None:
        summary = dict(cell.summary)
        if self.generations:
            summary["answers"] = _table(cell.answers())
        self.run.summary.update(summary)
        self.run.finish()

    def fail(self) -> None:
        self.run.finish(exit_code=1)


def _table(answers: Iterable[Row]) -> Any:
    """The judged answers as a W&B Table; what a row lacks (a task has no verdict) is None."""
    import wandb

    columns = ["part", "id", "prompt", "asked", "answer", "flagged", "credit", "reason"]
    return wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in answers])


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TensorBoardTracker(Tracker):
    """One TensorBoard run a cell, written anew each time; needs the extra ``tensorboard``."""

    name: ClassVar[str] = "tensorboard"

    def start(self, cell: CellRun) -> OpenRun:
        """See :meth:`Tracker.start`; event files of an earlier attempt are replaced."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tracker=tensorboard: install it, `pip install 'asft-lab[tensorboard]'`") from error
        folder = cell.folder / f"{cell.row}-{cell.key}"
        shutil.rmtree(folder, ignore_errors=True)
        writer = SummaryWriter(folder, flush_secs=_FLUSH)
        writer.add_text("config", f"```json\n{json.dumps(cell.config, indent=1, default=str)}\n```")
        return _TensorBoardRun(writer)


class _TensorBoardRun(OpenRun):
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def add(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self, cell: TrackedCell) -> None:
        for name, value in cell.summary.items():
            self.writer.add_scalar(f"cell/{name}", value)
        self.writer.close()

    def fail(self) -> None:
        self.writer.close()
