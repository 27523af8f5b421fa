"""Sweeps that are killed, crowded and out of room end in the store of an undisturbed one."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from forked import run_script
from helpers import Asft, Cli, nightly

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("forked_sweeps.py")
LONGER = ["training.epochs=4", "attack.n=48", "checkpoint_every=0.05"]


def forked(what: str, tmp_path: Path, overrides: list[str]) -> dict[str, Any]:
    return run_script(SCRIPT, *what.split(), str(tmp_path / "store"), json.dumps(overrides))


@pytest.fixture
def sweep(pair_overrides: list[str]) -> list[str]:
    """Two trained cells and one made from the first, in which Safe LoRA's parent is shared."""
    kept = [
        override for override in pair_overrides if not override.startswith(("outputs=", "training.epochs", "attack.n"))
    ]
    return [
        "experiment=table2",
        *kept,
        *LONGER,
        "method=sft,asft,safe_lora",
        "attack.p=0.5",
        "model.recipe.safe_lora_modules=2",
    ]


@pytest.mark.parametrize("kills", [3, nightly(20)])
def test_kills_change_no_metric_and_repeat_no_finished_stage(kills: int, tmp_path: Path, sweep: list[str]) -> None:
    found = forked(f"kill {kills}", tmp_path, sweep)
    assert found["kills"] == kills
    assert found["cells"] == 3
    assert found["recomputed"] == []
    assert found["told"].count("interrupted; finished stages are kept") == found["interrupted"] > 0
    assert "Traceback" not in found["told"]
    assert found["kills_between_checkpoints"] > 0, "some kills fell into a training that had saved a checkpoint"


def test_three_processes_train_each_cell_once(tmp_path: Path, sweep: list[str]) -> None:
    found = forked("crowd", tmp_path, sweep)
    assert found["codes"] == [0, 0, 0]
    assert found["cells"] == 3
    assert list(found["trained"].values()) == [1, 1], "sft and asft; Safe LoRA trains nothing"
    assert found["workers"] > 1, "the cells were shared out"


@pytest.mark.parametrize("way", ["limited", nightly("tmpfs")])
def test_a_full_disk_is_told_and_the_store_still_verifies(way: str, tmp_path: Path, sweep: list[str]) -> None:
    if way == "tmpfs" and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root's rights")
    found = forked(way, tmp_path, [*sweep, "attack.n=24"])
    assert found["code"] in (1, 2), "2: not even a job's folder could be made"
    assert re.search("no room left for (stages|cells)/", found["told"])
    assert "finished stages are kept" in found["told"]
    assert "Traceback" not in found["told"]
    assert found["whole"] > 0
    assert found["damaged"] == []
    assert found["again"] == 0
    assert found["recomputed"] == []
    assert found["cells"] == 3


@pytest.mark.parametrize("histories", [12, nightly(500)])
def test_no_history_of_one_store_loses_doubles_or_changes_an_entry(histories: int, tmp_path: Path) -> None:
    found = run_script(SCRIPT.with_name("forked_histories.py"), str(histories), "1", str(tmp_path))
    assert found == {"histories": histories, "wrong": []}


SECRETS = {"WANDB_API_KEY": "a" * 20 + "5ec2e7" * 4, "OPENAI_API_KEY": "sk-5ec2e7-openai", "HF_TOKEN": "hf_5ec2e7hub"}


def test_keys_reach_no_file_and_no_line(
    cli: Cli, asft: Asft, pair_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    options = ["experiment=table2", *pair_overrides, "method=sft,safe_lora", "attack.p=0.5", "tracker=wandb"]
    shown = cli("run", "-m", *options, "model.recipe.safe_lora_modules=99")
    assert "1 of 2 cells failed" in shown.stderr
    _, dump, errors = asft("run", "--cfg", "all", "--resolve", *pair_overrides)
    archive = tmp_path / "outputs" / "cells.tar.gz"
    for words in (["dashboard"], ["report"], ["store", "export", str(archive)], ["status"], ["doctor"]):
        _, out, err = asft(*words, *options)
        dump += out + err
    archive.write_bytes(gzip.decompress(archive.read_bytes()))
    told = (shown.stdout + shown.stderr + dump + errors).encode()
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert any("wandb" in path.parts for path in files)
    assert any("failures" in path.parts for path in files)
    assert any("logs" in path.parts for path in files)
    assert any("dashboard" in path.parts for path in files)
    assert any("reports" in path.parts for path in files)
    for value in SECRETS.values():
        assert value.encode() not in told
        assert [path for path in files if value.encode() in path.read_bytes()] == []


def test_pickled_weights_are_refused(asft: Asft, pair_overrides: list[str], tmp_path: Path, random_pair: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in (random_pair / "base").iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    code, _, told = asft("run", "method=sft", *pair_overrides, f"model.base={folder}")
    assert code == 1
    assert str(folder) in told.strip().splitlines()[-1]
    assert "safetensors" in told.strip().splitlines()[-1]
    assert "Traceback" not in told
