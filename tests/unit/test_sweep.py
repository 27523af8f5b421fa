"""A cell's standing, and the time that is left."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from helpers import MakeJob

from asft.cells.checks import few_test_rows
from asft.cells.compose import enumerate_cells
from asft.cells.job import CellState, Job, state_of
from asft.commands.progress import SweepProgress, duration, seconds_left
from asft.commands.run import PRACTICAL, _is_taken, distinct, run
from asft.store.entries import write_json
from asft.store.heartbeat import SUFFIX, Beat, Heartbeat, read_beat, tell
from asft.store.schemas import CONFIG_FILE

SECONDS = {"train": 30.0, "answers HS": 9.0, "answers FA": 3.0}
STAGE = {"key": "0" * 20, "peak_memory_mb": 1.0, "result": {}}
FINISHED = {"stages": {name: {**STAGE, "seconds": seconds} for name, seconds in SECONDS.items()}, "metrics": {}}


def finish(job: Job) -> None:
    def produce(folder: Path) -> dict[str, object]:
        write_json(folder / CONFIG_FILE, job.plain())
        return FINISHED

    job.store.ensure("cells", job.plan.judge, produce)


def test_standing_goes_from_missing_to_running_to_done(make_job: MakeJob) -> None:
    job = make_job("method=sft")
    key, store = job.key, job.store
    assert state_of(job).standing == "missing"
    with store.claim(key, wait=True) as ours:
        assert ours
        assert state_of(job).standing == "running"
        with store.claim(key, wait=False) as theirs:
            assert not theirs, "a second worker leaves the cell to the first"

        def produce(folder: Path) -> dict[str, object]:
            beat = state_of(job).beat
            assert beat is not None
            assert (beat.stage, beat.cell) == ("mixture", key)
            return {}

        store.ensure("stages/mixture", {"a": 1}, produce)
    with suppress(KeyboardInterrupt), store.claim(key, wait=True):

        def stopped(folder: Path) -> dict[str, object]:
            tell(3, 9, "step")
            raise KeyboardInterrupt

        store.ensure("stages/train", {"b": 1}, stopped)
    assert (state_of(job).standing, state_of(job).reason) == ("interrupted", "train step 3 of 9")
    with store.claim(key, wait=True):
        store.ensure("stages/train", {"b": 1}, lambda folder: {})
        assert state_of(job).standing == "running"
    assert state_of(job).standing == "missing"
    store.record_failure(key, "out of luck", {}, "")
    assert (state_of(job).standing, state_of(job).reason) == ("failed", "out of luck")
    store.clear_failure(key)
    finish(job)
    assert state_of(job).standing == "done"
    (store.path("cells", key) / "manifest.json").write_text("{")
    assert state_of(job).standing == "damaged"


@pytest.fixture
def words(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A sweep of two cells, whose computing takes no time."""
    monkeypatch.setattr("asft.pipeline.run.run_cell", lambda job: finish(job) or job.find())
    told = [word for word in small if word != "beside=null"]
    return ["-m", *told, f"outputs={tmp_path / 'outputs'}", "method=base,aligned", "workers=2"]


def test_cells_that_workers_have_left_are_done_at_the_end(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asft.commands.run.in_workers", lambda *_: [])  # all of them were killed
    assert run([*words, "beside=null"]) == 0
    assert all(job.find() for job in enumerate_cells(words[1:], sweep=True).cells)


def test_a_launcher_that_fails_is_told_with_the_cells_that_it_did_not_reach(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("asft.commands.run.launch", Mock(side_effect=RuntimeError("a worker\nstopped")))
    assert run([*words, "beside=null", "hydra/launcher=workers"]) == 1
    told = capsys.readouterr().err
    assert "hydra/launcher=workers  failed: RuntimeError: a worker stopped." in told
    assert "2 of 2 cells failed" in told
    assert told.count("was not reached") == 2


def test_scores_beside_that_were_not_made_are_a_failure_unless_they_are_left_out(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [*words, "workers=1"]
    assert run([*alone, "beside=null"]) == 0
    assert run(alone) == 0, "no metric can be had, which the stand-in does not find worth a word"
    monkeypatch.setattr("asft.commands.run.launch", Mock(side_effect=RuntimeError("killed")))
    assert run([*alone, "hydra/launcher=workers"]) == 1
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr("asft.pipeline.run.run_cell", full)
    monkeypatch.setattr("asft.store.entries.Store.record_failure", full)
    assert run(alone) == 1


def test_a_cell_is_taken_though_its_heartbeat_is_late(make_job: MakeJob) -> None:
    job = make_job()
    with job.store.claim(job.key, wait=True):
        (job.store.root / "cells" / f".{job.key}.claim{SUFFIX}").unlink()
        assert job.store.working(job.key) is None
        assert _is_taken(job)
    assert not _is_taken(job)


def test_a_stage_that_goes_on_is_not_credited_with_what_was_done_before(tmp_path: Path) -> None:
    with Heartbeat(tmp_path / "beat", "train", "k") as heart:
        tell(900, 1000, "step")
        assert heart.beat.seconds_left is None, "the first step tells no pace"
        tell(910, 1000, "step")
        assert ago(heart.beat, 30).seconds_left == pytest.approx(30 / 10 * 90, rel=0.05)


def test_the_time_left_is_of_the_units_at_work_and_not_of_what_came_before_them(tmp_path: Path) -> None:
    with Heartbeat(tmp_path / "beat", "generate", "k") as heart:
        tell(100, 100, "answer")
        heart.beat = ago(heart.beat, 600)  # a model was loaded, and a hundred answers were made
        tell(32, 601, "option")
        assert heart.beat.seconds_left is None, "a batch of 32 is the first word"
        tell(64, 601, "option")
        assert ago(heart.beat, 8).seconds_left == pytest.approx(8 / 32 * 537, rel=0.05)
        heart.beat = ago(heart.beat, 600)
        tell(32, 601, "option")
        assert heart.beat.seconds_left is None, "as many of another kind"


def ago(beat: Beat, seconds: float) -> Beat:
    """As if the stage and its units had begun so long ago."""
    then = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    return replace(beat, started=then, since=then, latest=datetime.now(UTC).isoformat())


def test_time_left_is_learned_from_finished_cells_and_shared_by_workers(make_job: MakeJob) -> None:
    jobs = {job.key: job for job in (make_job("method=sft", f"seed={seed}") for seed in range(4))}
    assert seconds_left({key: state_of(job) for key, job in jobs.items()}) is None
    first, second, third, _ = jobs.items()
    finish(first[1])
    states = {key: state_of(job) for key, job in jobs.items()}
    assert seconds_left(states) == pytest.approx(3 * 42, abs=1)
    store = first[1].store
    with store.claim(second[0], wait=True), store.claim(third[0], wait=True):
        progress = SweepProgress(jobs)
        assert progress.look() == "sft: between stages; sft: between stages · about 63 s left"
        assert progress.done == 1


def test_a_look_at_the_sweep_reads_each_heartbeat_once(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {job.key: job for job in (make_job("method=sft", f"seed={seed}") for seed in range(4))}
    first = next(iter(jobs.values()))
    with first.store.claim(first.key, wait=True):
        monkeypatch.setattr("asft.store.entries.read_beat", beats := Mock(side_effect=read_beat))
        assert SweepProgress(jobs).look() == "sft: between stages"
        assert beats.call_count == 1


def test_a_cell_that_is_slower_than_those_before_it_tells_how_long_it_takes(make_job: MakeJob) -> None:
    done, slow = (make_job("method=sft", f"seed={seed}") for seed in range(2))
    finish(done)
    now, started = ((datetime.now(UTC) - timedelta(seconds=ago)).isoformat() for ago in (0, 30))
    beat = Beat("host", 1, 0.0, started, "train")
    states = {"done": state_of(done), "slow": CellState(slow.cell, "running", beat=beat)}
    assert seconds_left(states) == pytest.approx(12, abs=1), "42 s are usual, of which 30 are over"
    states["slow"] = CellState(slow.cell, "running", beat=replace(beat, done=10, total=100, since=started, latest=now))
    assert seconds_left(states) == pytest.approx(30 / 10 * 90, rel=0.05)


def test_between_two_reports_the_time_left_goes_down() -> None:
    ten, twenty = ((datetime.now(UTC) - timedelta(seconds=ago)).isoformat() for ago in (10, 30))
    beat = Beat("host", 1, 0.0, twenty, "train", done=20, total=60, before=10, since=twenty, latest=ten)
    assert beat.seconds_left == pytest.approx(20 / 10 * 40 - 10, abs=0.5)
    assert replace(beat, done=59).seconds_left == 0


def test_cells_of_another_kind_and_failed_ones_tell_no_time(make_job: MakeJob) -> None:
    asked, trained, failed = (make_job(f"method={name}") for name in ("aligned", "sft", "asft"))
    finish(asked)
    states = {job.key: state_of(job) for job in (asked, trained)}
    assert seconds_left(states) is None, "what trains costs more than what is asked"
    finish(trained)
    failed.store.record_failure(failed.key, "no memory", {}, "")
    assert seconds_left({job.key: state_of(job) for job in (asked, trained, failed)}) is None, "nothing is at work"


def test_scores_beside_are_those_that_any_experiment_wants(words: list[str]) -> None:
    (bare,) = enumerate_cells([*words[1:-2], "method=base", "beside=null"], sweep=True).cells
    (asked,) = enumerate_cells([*words[1:-2], "method=base"], sweep=True).cells
    assert asked.cell.beside
    assert bare.key == asked.key
    for jobs in ([bare, asked], [asked, bare]):
        (job,) = distinct(jobs).values()
        assert job.plan.beside == asked.plan.beside


def test_durations_read_well() -> None:
    assert [duration(value) for value in (42.2, 420, 12_000)] == ["42 s", "7 min", "3 h 20 min"]


def test_too_many_test_rows_are_told_once_a_data_set() -> None:
    words = ["method=sft,asft", "dataset=sst2,agnews", "dataset.n_test=30,9000"]
    told = few_test_rows(job.cell for job in enumerate_cells(words, sweep=True).cells)
    assert [line.partition(":")[0] for line in told] == ["dataset.n_test=9000"] * 2


@pytest.mark.parametrize(
    ("word", "left_out"),
    [
        ("workers=1", True),
        ("+tracker.mode=online", True),
        ("hydra/launcher=joblib", True),
        ("seed=1", False),
        ("outputs=o", False),
    ],
)
def test_a_suggested_report_repeats_only_what_lays_it_out(word: str, left_out: bool) -> None:
    assert bool(PRACTICAL.match(word)) is left_out
