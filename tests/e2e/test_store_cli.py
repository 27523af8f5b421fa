"""``asft store`` and ``asft status`` on a finished sweep, and a finished table that is run again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import Asft, Cli
from synthetic_store import write_cell

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.commands.run import distinct
from asft.pipeline.run import run_cell
from asft.store.entries import content_key, remove

pytestmark = pytest.mark.slow


def test_a_table_is_verified_exported_imported_and_cleaned(
    asft: Asft, pair_overrides: list[str], tmp_path: Path
) -> None:
    options = ["experiment=table2", *pair_overrides, "method=aligned,sft", "attack.p=0,0.5"]
    for item in distinct(enumerate_cells(options, sweep=True).cells).values():
        run_cell(item)
    outputs = tmp_path / "outputs"
    assert "13 entries are whole, 0 damaged" in asft("store", "verify", f"outputs={outputs}")[1]

    assert asft("store", "export", "table.tar.gz", *options)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    elsewhere = f"outputs={tmp_path / 'elsewhere'}"
    assert "11 entries imported, 0 were here already" in asft("store", "import", "table.tar.gz", elsewhere)[1]
    assert "3 of 3 cells done" in asft("status", *options, elsewhere)[1]
    assert asft("report", *options, elsewhere)[0] == 0

    weights = min((outputs / "stages" / "train").glob("*/adapter_model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, told, _ = asft("store", "verify", f"outputs={outputs}")
    assert code == 1
    assert f"{weights}: its SHA-256 is not that of what was written" in told
    assert len(list((outputs / "damaged" / "stages" / "train").iterdir())) == 1

    listed = asft("store", "gc", f"outputs={outputs}", "device=cpu", "workers=1", "--yes")[1]
    assert "not named by this experiment" not in listed, "these words name no experiment"
    assert "3 of 3 cells done" in asft("status", *options)[1]
    narrow = [*options[:-1], "attack.p=0"]
    listed = asft("store", "gc", *narrow)[1]
    assert "not named by this experiment" in listed
    assert "could go; --yes deletes them" in listed
    assert "3 of 3 cells done" in asft("status", *options)[1]
    assert "deleted" in asft("store", "gc", *narrow, "--yes")[1]
    assert "2 of 3 cells done, 1 missing" in asft("status", *options)[1]


@pytest.fixture
def made_up(tmp_path: Path) -> list[Job]:
    """Two finished cells of a demo, made up, with one score beside each; their mixture and pair are not there."""
    words = ["experiment=demo", "method=aligned,sft", "attack.p=0.1", f"outputs={tmp_path / 'outputs'}"]
    jobs = list(distinct(enumerate_cells(words, sweep=True).cells).values())
    for job in jobs:
        entry = write_cell(job, 4, 4)
        result = {**entry.result["metrics"]["HS"], "file": "x.jsonl"}
        settings = job.plan.beside["coherence"]
        job.store.ensure(
            "beside", settings, lambda folder, result=result: (folder / "x.jsonl").write_text("") or result
        )
    return jobs


@pytest.mark.parametrize("word", ["model=tiny_qwen2", "lam=2"])
def test_words_that_name_one_cell_delete_no_entry(asft: Asft, made_up: list[Job], word: str) -> None:
    code, _, told = asft("store", "gc", "--yes", word)
    assert (code, len(told.strip().splitlines())) == (2, 1)
    assert f"{word}: names neither an experiment nor several cells" in told
    assert all(job.find() for job in made_up)


def test_what_is_kept_is_told_and_keeps_its_scores_beside(asft: Asft, made_up: list[Job]) -> None:
    aligned, sft = made_up
    narrow = ["experiment=demo", "method=sft", "attack.p=0.1", "beside=null"]
    told = asft("store", "gc", *narrow)[1]
    assert told.startswith("kept: 1 finished of 1 cells; 4 other entries go\n"), told
    assert "4 files and folders of" in asft("store", "gc", *narrow, "--yes")[1]
    assert aligned.find() is None
    assert sft.find()
    assert (list(sft.beside()), list(aligned.beside())) == (["coherence"], [])
    assert sft.is_answered()
    code, told, _ = asft("store", "gc", "method=sft,asft", "dataset=sst2", "--yes")
    assert (code, told.startswith("kept: 0 finished of 2 cells; ")) == (0, True), "several cells are named as well"
    assert sft.find() is None


def test_an_export_tells_what_finished_cells_lack(asft: Asft, made_up: list[Job]) -> None:
    words = ["experiment=demo", "method=aligned,sft", "attack.p=0.1", "beside=null"]
    code, told, _ = asft("store", "export", "a.tar.gz", *words)
    assert code == 0, "a report needs no mixture"
    assert told.endswith("is of the finished cells: 1 of stages/mixture\n"), told
    remove(made_up[0].store.path("stages/generate", content_key(made_up[0].plan.generate["HS"])))
    code, told, _ = asft("store", "export", "b.tar.gz", *words, "--weights")
    assert code == 1, "their answers cannot be judged anew"
    assert told.endswith("is of the finished cells: 1 of pairs, 1 of stages/generate, 1 of stages/mixture\n"), told


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["store", "export", "x.tar.gz", "experiment=table2"], "nothing to export"),
        (["store", "export", "outputs", "experiment=table2"], "outputs: is there already; name a new file"),
        (["store", "export", "no/x.tar.gz", "experiment=table2"], "no/x.tar.gz: there is no such folder"),
        (["store", "import", "nowhere.tar.gz"], "nowhere.tar.gz"),
        (["store", "verify", "rubbish"], "rubbish: not of the form KEY=VALUE"),
        (["store", "verify", "outputs=nowhere"], "outputs=nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(asft: Asft, tmp_path: Path, arguments: list[str], part: str) -> None:
    (tmp_path / "outputs").mkdir()
    code, _, told = asft(*arguments)
    assert code == 2
    assert part in told
    assert len(told.strip().splitlines()) == 1


def test_a_finished_table_is_run_again_without_loading_what_trains(
    cli: Cli, pair_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries are put there by hand: nothing is to be done, and torch takes longer to load than to see that."""
    options = ["experiment=table2", *pair_overrides, "method=sft,asft,l2,safe_lora", "attack.p=0,0.1"]
    cells = distinct(enumerate_cells(options, sweep=True).cells)
    for item in cells.values():
        write_cell(item, 1, 1)
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    shown = cli("run", "-m", *options)
    assert shown.returncode == 0, shown.stderr
    assert "8 cells, 8 finished already" in shown.stderr
