"""Finished cells reach W&B's offline files and TensorBoard's, and nothing secret does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from synthetic_store import write_cell, write_measure
from wandb_files import OfflineRun, read_run

from asft.cells.compose import enumerate_cells
from asft.commands.track import track
from asft.config import ConfigError
from asft.store.entries import Store

pytestmark = pytest.mark.slow

EXPERIMENT = ["experiment=demo", "method=aligned,sft,asft", "attack.p=0.1"]
SECRETS = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "HF_TOKEN": "hf_neverWriteThisDown"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the three cells of the experiment, made up."""
    folder = tmp_path_factory.mktemp("tracked")
    for job in enumerate_cells([*EXPERIMENT, f"outputs={folder}"], sweep=True).cells:
        write_cell(job, 20, 30)
    return folder


@pytest.fixture(scope="module")
def secrets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def runs(outputs: Path, secrets: None) -> dict[str, OfflineRun]:
    """The experiment tracked offline twice, read back; job type to run."""
    for _ in range(2):
        assert track([*EXPERIMENT, f"outputs={outputs}"]) == 0
    wandb.teardown()  # its service writes on behind the runs' backs until it is ended
    files = list((outputs / "wandb").glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 3, "tracking twice leaves one run a cell"
    found = [read_run(path) for path in files]
    return {run.job_type: run for run in found}


def test_the_run_is_the_cell_and_grouping_makes_the_table(runs: dict[str, OfflineRun], outputs: Path) -> None:
    cells = enumerate_cells([*EXPERIMENT, f"outputs={outputs}"], sweep=True).cells
    assert {run.id for run in runs.values()} == {item.key for item in cells}
    config = runs["asft"].config
    assert (config["method"]["lam"], config["attack"]["p"]) == (1, 0.1)
    assert {"demo", "tiny_llama", "agnews", "harmful"} <= set(runs["asft"].tags)
    assert runs["sft"].group == "tiny_llama agnews harmful p=0.1 n=1000 lr=0.0002"
    assert runs["asft"].group == f"{runs['sft'].group} λ=1"
    assert runs["aligned"].group == "tiny_llama agnews not fine-tuned"


def test_history_and_summary_are_the_stores(runs: dict[str, OfflineRun], outputs: Path) -> None:
    run = runs["asft"]
    assert [row["_step"] for row in run.history] == list(range(1, 11))
    assert run.history[1]["train/loss"] == 2.0
    assert run.history[1]["train/asft/penalty"] == pytest.approx(0.2)
    entry = Store(outputs).find("cells", run.id)
    assert entry is not None
    for name, metric in entry.result["metrics"].items():
        shown = [run.summary[f"{name.lower()}{part}"] for part in ("", "_lo", "_hi", "_total")]
        assert shown == pytest.approx([metric["value"], *metric["interval"][:2], metric["total"]])


def test_no_secret_and_no_answer_is_written(runs: dict[str, OfflineRun], outputs: Path) -> None:
    written = b"".join(path.read_bytes() for path in (outputs / "wandb").rglob("*") if path.is_file())
    for name, value in SECRETS.items():
        assert value.encode() not in written, name
    assert b"Placeholder answer" not in written, "answers are sent only where they are asked for"


def test_answers_are_a_table_where_asked_for(outputs: Path) -> None:
    assert track([*EXPERIMENT, f"outputs={outputs}", "tracker=wandb", "tracker.generations=true"]) == 0
    found = map(read_run, (outputs / "wandb").glob("wandb/offline-run-*/*.wandb"))
    (run,) = (run for run in found if run.job_type == "sft")
    assert (run.summary["answers"]["_type"], run.summary["answers"]["nrows"]) == ("table-file", 50)


def test_tensorboard_gets_the_same_curves(outputs: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        assert track([*EXPERIMENT, f"outputs={outputs}", "tracker=tensorboard"]) == 0
    (folder,) = (outputs / "tensorboard").glob("asft-*")
    events = EventAccumulator(str(folder)).Reload()
    assert [point.value for point in events.Scalars("train/loss")][:2] == [4.0, 2.0]
    assert "cell/hs" in events.Tags()["scalars"]


def test_measures_are_tracked_by_their_values(tmp_path: Path) -> None:
    options = ["experiment=table1", "measure.update=harmful,random", "attack.n=10", f"outputs={tmp_path}"]
    for item in enumerate_cells(options, sweep=True).cells:
        write_measure(item, 0.5, {}, interval=[0.25, 0.75, "95% of 9 draws"])
    assert track(options) == 0
    wandb.teardown()
    runs = {run.job_type: run for run in map(read_run, tmp_path.glob("wandb/wandb/offline-run-*/*.wandb"))}
    assert runs.keys() == {"cosine alignment × harmful", "cosine alignment × random"}
    shown = runs["cosine alignment × harmful"]
    assert (shown.group, shown.summary["abs_cos"]) == ("tiny_llama n=10 draws=1000", 0.5)
    assert (shown.summary["interval_lo"], shown.summary["interval_hi"], shown.history) == (0.25, 0.75, [])


def test_a_store_without_these_cells_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of these 3 cells is finished"):
        track([*EXPERIMENT, f"outputs={tmp_path}"])
    with pytest.raises(ConfigError, match="tracker=none"):
        track([*EXPERIMENT, f"outputs={tmp_path}", "tracker=none"])


def test_pages_that_cannot_be_saved_are_told_when_the_cells_are_sent(
    outputs: Path, secrets: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object, **__: object) -> list[str]:
        raise RuntimeError("made up")

    monkeypatch.setattr("asft.commands.track.check_pages", lambda tracker: None)
    monkeypatch.setattr("asft.commands.track.save_pages", gone)
    assert track(["experiment=demo", "method=aligned", "attack.p=0.1", f"outputs={outputs}", "--report"]) == 1
    told = capsys.readouterr()
    assert "1 cells tracked, 0 failed" in told.out
    assert "The pages could not be saved: made up" in told.err
