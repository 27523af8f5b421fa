"""Metrics reach the tracker while a cell is trained, and what a run holds in the end does not depend on how."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import wandb
from helpers import MakeJob, read_jsonl
from pydantic.dataclasses import dataclass
from synthetic_store import write_cell
from transformers import TrainerControl, TrainerState, TrainingArguments
from wandb_files import OfflineRun, read_run
from wandb_server import Server, wandb_server

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.commands.track import track
from asft.pipeline.run import run_cell
from asft.store.entries import content_key
from asft.store.schemas import HISTORY_FILE
from asft.trackers import base as tracking
from asft.trackers.base import CellRun, OpenRun, TrackedCell, Tracker
from asft.trackers.live import LiveRun

pytestmark = pytest.mark.slow
OFTEN = ["training.epochs=2", "checkpoint_every=0", "attack.p=0.5"]


def offline_run(outputs: Path) -> OfflineRun:
    """The one run of the store, with what tells when it was written left out."""
    wandb.teardown()  # its service writes on behind the runs' backs until it is ended
    (path,) = outputs.glob("wandb/wandb/offline-run-*/*.wandb")
    run = read_run(path)
    for values in (run.summary, *run.history):
        for name in ("_runtime", "_timestamp", "_wandb"):
            values.pop(name, None)
    run.config.pop("_wandb")
    return run


def stored_history(job: Job) -> list[dict[str, float]]:
    key = content_key(job.plan.train or {})
    return list(read_jsonl(job.store.path("stages/train", key) / HISTORY_FILE))


def interrupt_after(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """Ends the process' work, as Ctrl-C does, when the run is given an entry more than these."""
    log, left = tracking._WandbRun.log, iter(range(entries))

    def logging_or_not(run: Any, entry: Mapping[str, float]) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        log(run, entry)

    monkeypatch.setattr(tracking._WandbRun, "log", logging_or_not)


def test_streamed_interrupted_and_sent_afterwards_are_one_run(
    make_job: MakeJob, pair_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["method=asft", "tracker=wandb", *OFTEN]
    tracked = make_job(*options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run_cell(tracked)
    broken = offline_run(tracked.options.outputs)
    assert (len(broken.history), broken.exit_code) == (3, 1), "shown while it trained, and marked as failed"

    run_cell(tracked)
    streamed = offline_run(tracked.options.outputs)
    history = stored_history(tracked)
    assert [row["_step"] for row in streamed.history] == [entry["step"] for entry in history]
    assert [row["train/asft/penalty"] for row in streamed.history] == [entry["asft/penalty"] for entry in history]
    assert streamed.history[:3] == broken.history
    assert streamed.exit_code == 0

    assert track([*pair_overrides, *options]) == 0
    assert offline_run(tracked.options.outputs) == streamed


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    wandb.teardown()  # it remembers the address that it saw first
    with wandb_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
        yield running
    wandb.teardown()


def test_online_no_step_is_sent_twice_and_none_is_lost(
    make_job: MakeJob, pair_overrides: list[str], monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    options = ["method=asft", "tracker=wandb", "tracker.mode=online", *OFTEN]
    tracked = make_job(*options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run_cell(tracked)
    run = server.runs[tracked.key]
    assert (len(run.history), run.exit_code) == (3, 1)

    for again in (lambda: run_cell(tracked), lambda: track([*pair_overrides, *options])):
        again()
        assert [row["_step"] for row in run.history] == [entry["step"] for entry in stored_history(tracked)]
        assert (run.summary["hs_total"], run.exit_code) == (10, 0)


def test_a_cell_of_two_experiments_has_the_tags_of_both(tmp_path: Path, server: Server) -> None:
    for experiment in ("demo", "table2"):
        words = [f"experiment={experiment}", "method=aligned", "attack.p=0.1", f"outputs={tmp_path}"]
        (job,) = enumerate_cells(words, sweep=True).cells
        write_cell(job, 4, 4)
        assert track([*words, "tracker=wandb", "tracker.mode=online"]) == 0
    assert [*server.runs] == [job.key]
    assert {"demo", "table2", "agnews"} <= set(server.runs[job.key].tags)


def test_a_network_that_goes_away_costs_the_cell_a_warning(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "_PATIENCE", 1.0)
    log = tracking._WandbRun.log

    def gone(run: Any, entry: Mapping[str, float]) -> None:
        server.close()
        log(run, entry)

    monkeypatch.setattr(tracking._WandbRun, "log", gone)
    entry = run_cell(make_job("method=sft", "tracker=wandb", "tracker.mode=online"))
    assert entry.result["metrics"]["HS"]["total"] == 10
    assert any("this cell was not tracked" in record.message for record in caplog.records)


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


def test_only_a_training_of_the_cells_own_is_streamed(make_job: MakeJob, calls: list[str]) -> None:
    """Safe LoRA trains plain SFT on the way, which shows nothing; SFT itself then finds its weights in the store."""
    options = ["attack.p=0.5", "model.recipe.safe_lora_modules=2"]
    run_cell(replace(make_job("method=safe_lora", "method.number=2", *options), tracker=Notebook()))
    assert calls == ["start", "end 0"]
    calls.clear()
    sft = replace(make_job("method=sft", *options), tracker=Notebook())
    run_cell(sft)
    steps = [int(entry["step"]) for entry in stored_history(sft)]
    assert calls == ["start", *(f"log {step}" for step in steps), f"end {len(steps)}"]


def follow(tracker: Tracker, tmp_path: Path, *, begins: int = 1, first_process: bool = True) -> None:
    """What a live run is told in a cell that logs three steps."""
    config: dict[str, Any] = {}
    cell = TrackedCell(
        key="k",
        row="sft",
        trained=True,
        told="",
        config=config,
        folder=tmp_path,
        history=[{"step": 1}] * 3,
        summary={},
        answers=lambda: (),
    )
    arguments, state = TrainingArguments(str(tmp_path)), TrainerState(is_world_process_zero=first_process)
    with LiveRun(tracker, cell) as live:
        for _ in range(begins):
            live.on_train_begin(arguments, state, TrainerControl())
        for step in (1, 2, 3):
            state.log_history.append({"loss": 1.0, "step": step})
            live.on_log(arguments, state, TrainerControl())
        if first_process:
            live.finish(lambda: cell)


@pytest.mark.parametrize(
    ("fails_at", "expected"),
    [
        ("log 2", ["start", "log 1", "log 2", "fail", "start", "log 1", "log 1", "log 1", "end 3"]),
        ("end 3", ["start", "log 1", "log 2", "log 3", "end 3", "fail"]),
    ],
)
def test_a_tracker_that_fails_is_told_of_once_and_tried_again_at_the_end(
    tmp_path: Path, calls: list[str], caplog: pytest.LogCaptureFixture, fails_at: str, expected: list[str]
) -> None:
    with caplog.at_level(logging.WARNING, "asft.trackers.live"):
        follow(Notebook(fails_at=fails_at), tmp_path)
    assert calls == expected
    (warning,) = caplog.messages
    assert "made up" in warning


def test_a_training_that_begins_again_begins_its_run_again(tmp_path: Path, calls: list[str]) -> None:
    """As one does that ran out of memory and goes on with smaller batches."""
    follow(Notebook(), tmp_path, begins=2)
    assert calls == ["start", "fail", "start", "log 1", "log 2", "log 3", "end 3"]


def test_only_the_first_process_of_a_training_tracks(tmp_path: Path, calls: list[str]) -> None:
    follow(Notebook(), tmp_path, first_process=False)
    assert calls == []
