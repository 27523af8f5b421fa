"""Metrics reach the tracker while a cell is trained, and what a run holds in the end does not depend on how."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic.dataclasses import dataclass
from wandb_files import OfflineRun, read_run

from asft import tracking
from asft.commands.track import track
from asft.config import CellConfig
from asft.keys import plan
from asft.pipeline import run_cell
from asft.store import HISTORY_FILE, Store, content_key, read_jsonl
from asft.tracking import CellRun, OpenRun, TrackedCell, Tracker

pytestmark = pytest.mark.slow
MakeCell = Callable[..., CellConfig]
OFTEN = ["training.epochs=2", "checkpoint_every=0", "attack.p=0.5"]


def offline_run(outputs: Path) -> OfflineRun:
    """The one run of the store, with what tells when it was written left out."""
    import wandb

    wandb.teardown()  # its service writes on behind the runs' backs until it is ended
    (path,) = outputs.glob("wandb/wandb/offline-run-*/*.wandb")
    run = read_run(path)
    for values in (run.summary, *run.history):
        for name in ("_runtime", "_timestamp", "_wandb"):
            values.pop(name, None)
    run.config.pop("_wandb")
    return run


def stored_history(cell: CellConfig) -> list[dict[str, float]]:
    key = content_key(plan(cell).train or {})
    return list(read_jsonl(Store(cell.outputs).path("stages/train", key) / HISTORY_FILE))


def interrupt_after(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """Ends the process' work, as Ctrl-C does, when the run is given an entry more than these."""
    log, left = tracking._WandbRun.log, iter(range(entries))

    def logging_or_not(run: Any, entry: Mapping[str, float]) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        log(run, entry)

    monkeypatch.setattr(tracking._WandbRun, "log", logging_or_not)


def test_streamed_interrupted_and_sent_afterwards_are_one_run(
    cell: MakeCell, pair_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["method=asft", "tracker=wandb", *OFTEN]
    tracked = cell(*options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run_cell(tracked)
    broken = offline_run(tracked.outputs)
    assert (len(broken.history), broken.exit_code) == (3, 1), "shown while it trained, and marked as failed"

    run_cell(tracked)
    streamed = offline_run(tracked.outputs)
    history = stored_history(tracked)
    assert [row["_step"] for row in streamed.history] == [entry["step"] for entry in history]
    assert [row["train/asft/penalty"] for row in streamed.history] == [entry["asft/penalty"] for entry in history]
    assert streamed.history[:3] == broken.history
    assert streamed.exit_code == 0

    assert track([*pair_overrides, *options]) == 0
    assert offline_run(tracked.outputs) == streamed


@dataclass(frozen=True)
class Notebook(Tracker):
    """Takes down the calls of its runs, and fails at the one it is told."""

    name: ClassVar[str] = "notebook"
    calls: ClassVar[list[str]] = []
    fails_at: str = ""

    def start(self, cell: CellRun) -> OpenRun:
        self.note("start")
        return Page(self)

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fails_at:
            raise ConnectionError("made up")


class Page(OpenRun):
    def __init__(self, notebook: Notebook) -> None:
        self.notebook = notebook

    def log(self, entry: Mapping[str, float]) -> None:
        self.notebook.note(f"log {entry['step']}")

    def end(self, cell: TrackedCell) -> None:
        self.notebook.note(f"end {len(cell.history)}")

    def fail(self) -> None:
        self.notebook.note("fail")


@pytest.fixture
def calls() -> list[str]:
    Notebook.calls.clear()
    return Notebook.calls


def test_only_a_training_of_the_cells_own_is_streamed(cell: MakeCell, calls: list[str]) -> None:
    """Safe LoRA trains plain SFT on the way, which shows nothing; SFT itself then finds its weights in the store."""
    options = ["attack.p=0.5", "model.recipe.safe_lora_modules=2"]
    run_cell(replace(cell("method=safe_lora", "method.number=2", *options), tracker=Notebook()))
    assert calls == ["start", "end 0"]
    calls.clear()
    sft = replace(cell("method=sft", *options), tracker=Notebook())
    run_cell(sft)
    steps = [int(entry["step"]) for entry in stored_history(sft)]
    assert calls == ["start", *(f"log {step}" for step in steps), f"end {len(steps)}"]


@pytest.mark.parametrize("fails_at", ["start", "log 2", "end 3"])
def test_a_tracker_that_fails_harms_nothing_and_is_told_of_once(
    cell: MakeCell, calls: list[str], caplog: pytest.LogCaptureFixture, fails_at: str
) -> None:
    broken = replace(cell("method=sft", "attack.p=0.5"), tracker=Notebook(fails_at=fails_at))
    with caplog.at_level(logging.WARNING, "asft.live"):
        entry = run_cell(broken)
    assert entry.result["metrics"]["hs_total"] == 10
    live = [record.message for record in caplog.records if "while it trains" in record.message]
    assert len(live) == (fails_at != "end 3")
    assert [record.message for record in caplog.records if "was not tracked: made up" in record.message]
