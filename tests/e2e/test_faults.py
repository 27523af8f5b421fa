"""Sweeps that are killed, crowded and out of room end in the store of an undisturbed one."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import wandb
from forked import run_script
from helpers import Asft, nightly

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("forked_sweeps.py")


DAILY = ("kill 3", "crowd", "limited")
Forked = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def forked(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Forked:
    """What the script found of one of its ways to disturb a sweep; those of every day run in one process.

    The sweep has two trained cells and one made from the first, in which Safe LoRA's parent is shared.
    """
    longer = ["training.epochs=4", "attack.n=48", "checkpoint_every=0.05", "model.recipe.safe_lora_modules=2"]
    sweep = ["experiment=table2", *small, *longer, "method=sft,asft,safe_lora", "attack.p=0.5"]

    @cache
    def together(ways: tuple[str, ...]) -> dict[str, Any]:
        return run_script(SCRIPT, str(tmp_path_factory.mktemp("stores")), json.dumps(sweep), *ways)

    return lambda way: together(DAILY if way in DAILY else (way,))[way]


@pytest.mark.parametrize("kills", [3, nightly(20)])
def test_kills_change_no_metric_and_repeat_no_finished_stage(kills: int, forked: Forked) -> None:
    found = forked(f"kill {kills}")
    assert found["kills"] == kills
    assert found["cells"] == 3
    assert found["recomputed"] == []
    assert found["told"].count("interrupted; finished stages are kept") == found["interrupted"] > 0
    assert "Traceback" not in found["told"]
    assert found["kills_between_checkpoints"] > 0, "some kills fell into a training that had saved a checkpoint"


def test_three_processes_train_each_cell_once(forked: Forked) -> None:
    found = forked("crowd")
    assert found["codes"] == [0, 0, 0]
    assert found["cells"] == 3
    assert list(found["trained"].values()) == [1, 1], "sft and asft; Safe LoRA trains nothing"
    assert found["workers"] > 1, "the cells were shared out"


@pytest.mark.parametrize("way", ["limited", nightly("tmpfs")])
def test_a_full_disk_is_told_and_the_store_still_verifies(way: str, forked: Forked) -> None:
    if way == "tmpfs" and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root's rights")
    found = forked(way)
    assert found["code"] in (1, 2), "2: not even a job's folder could be made"
    assert re.search("no room left for (stages|cells)/", found["told"])
    assert "finished stages are kept" in found["told"]
    assert "Traceback" not in found["told"]
    assert found["whole"] > 0
    assert (found["damaged"], found["again"], found["recomputed"]) == ([], 0, [])
    assert found["cells"] == 3


@pytest.mark.parametrize("histories", [12, nightly(500)])
def test_no_history_of_one_store_loses_doubles_or_changes_an_entry(histories: int, tmp_path: Path) -> None:
    found = run_script(SCRIPT.with_name("forked_histories.py"), str(histories), "1", str(tmp_path))
    assert found == {"histories": histories, "wrong": []}


def test_an_audit_killed_again_and_again_ends_as_an_undisturbed_one(
    random_pair: Path, tuned: Path, tmp_path: Path
) -> None:
    prompts, task = tmp_path / "prompts.jsonl", tmp_path / "task.json"
    prompts.write_text("".join(json.dumps({"goal": f"say the word {n}"}) + "\n" for n in range(48)))
    task.write_text(json.dumps([{"instruction": f"count to {n}", "output": "a"} for n in range(48)]))
    words = [str(tuned), "--aligned", str(random_pair / "aligned"), "--prompts", str(prompts), "--task", str(task)]
    words += ["--base", str(random_pair / "base"), "--max-new-tokens", "2", "--batch-size", "64", "--repair"]
    words += ["--max-hs", "99", "--max-accuracy-loss", "100", "--no-modules"]
    kills = [str(until) for until in (1, 4, 30, 60, 3, 5, 7, 9, 11, 13, 15)]
    found = run_script(SCRIPT.with_name("forked_audits.py"), str(tmp_path), json.dumps(words), *kills)
    assert (found["whole"], found["codes"][-1], found["halves"]) == (0, 0, []), found["told"]
    assert found["codes"].count(-9) >= 8
    one, other = (json.loads((tmp_path / name / "out" / "audit.json").read_text()) for name in ("whole", "killed"))
    assert one["scores"] == other["scores"]
    for told in (one, other):
        told["repair"] |= {"folder": "", "load": ""}
    assert one["repair"] == other["repair"]
    first, second = (tmp_path / name / "out" / "repaired" / "adapter_model.safetensors" for name in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()
    for file in (tmp_path / "killed" / "out" / "answers").glob("*.jsonl"):
        rows = [json.loads(line)["row"] for line in file.read_text().splitlines()]
        assert len(rows) == len(set(rows)), "no answer is asked for twice"
    assert not list((tmp_path / "killed" / "out").glob(".*.partial"))


SECRETS = {"WANDB_API_KEY": "a" * 20 + "5ec2e7" * 4, "OPENAI_API_KEY": "sk-5ec2e7-openai", "HF_TOKEN": "hf_5ec2e7hub"}


def test_keys_reach_no_file_and_no_line(
    asft: Asft, pair_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    options = ["experiment=table2", *pair_overrides, "method=sft,safe_lora", "attack.p=0.5", "tracker=wandb"]
    monkeypatch.setattr("asft.methods.safe_lora.SafeLoRA.finish", Mock(side_effect=ValueError("out of luck")))
    told = asft("run", "-m", *options, "model.recipe.safe_lora_modules=2")
    wandb.teardown()  # its service writes on behind the runs' backs until it is ended
    assert "1 of 2 cells failed" in told[2]
    told += asft("run", "--cfg", "all", "--resolve", *pair_overrides)
    archive = tmp_path / "outputs" / "cells.tar.gz"
    for words in (["dashboard"], ["report"], ["store", "export", str(archive)], ["status"], ["doctor"]):
        told += asft(*words, *options)
    archive.write_bytes(gzip.decompress(archive.read_bytes()))
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert {"wandb", "failures", "logs", "dashboard", "reports"} <= {part for path in files for part in path.parts}
    for value in SECRETS.values():
        assert value not in "".join(map(str, told))
        assert [path for path in files if value.encode() in path.read_bytes()] == []
