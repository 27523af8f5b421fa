"""Rows from hub datasets, read from local copies in the hub's own formats; and commits that branches stay at."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from datasets import Dataset
from helpers import MakeJob

from asft import hub as commits
from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.data.base import load_data
from asft.data.protocol import protocol_of
from asft.judges import checkpoint_judge
from asft.judges.llama_guard import LlamaGuardJudge
from asft.pipeline.run import run_cell

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def parquet(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local copies with the hub datasets' columns and a few placeholder rows."""
    root = tmp_path_factory.mktemp("hub")
    for split in ("train", "validation"):
        parquet(root / "sst2", split, [{"sentence": f"{split} {i}", "label": i % 2, "idx": i} for i in range(30)])
    for split in ("train", "test"):
        parquet(root / "agnews", split, [{"text": f"{split} {i}", "label": i % 4} for i in range(30)])
        parquet(root / "gsm8k", split, [{"question": f"{split} {i}?", "answer": f"So\n#### {i}"} for i in range(30)])
    parquet(root / "alpaca", "train", [{"instruction": f"Say {i}", "input": "", "output": str(i)} for i in range(30)])
    (root / "alpaca_eval").mkdir()
    questions = [{"instruction": f"Question {i}", "output": "x", "generator": "g"} for i in range(12)]
    (root / "alpaca_eval" / "alpaca_eval.json").write_text(json.dumps(questions))
    parquet(root / "advbench", "train", [{"prompt": f"Request {i}", "target": f"Sure {i}"} for i in range(20)])
    parquet(root / "harmbench", "train", [{"prompt": f"Behaviour {i}", "category": "c"} for i in range(20)])
    beaver = [{"prompt": f"Prompt {i}", "response": f"Reply {i}", "is_safe": i % 2 == 0} for i in range(40)]
    parquet(root / "beavertails", "train", beaver)
    parquet(root / "beavertails", "test", [*beaver[1:5], *[{**beaver[0], "prompt": f"Asked {i}"} for i in range(10)]])
    return root


@pytest.fixture
def hub_job(make_job: MakeJob, copies: Path) -> MakeJob:
    """A tiny cell whose sources point at the local copies."""

    def make(*overrides: str) -> Job:
        paths = {
            **{f"{task}_{part}": task for task in ("sst2", "agnews", "gsm8k") for part in ("train", "test")},
            "alpaca_train": "alpaca",
            "alpaca_test": "alpaca_eval",
            "advbench": "advbench",
            "harmbench": "harmbench",
            "beavertails": "beavertails",
            "safety": "beavertails",
            "evaluation": "beavertails",
        }
        local = [f"data.sources.{name}.path={copies / folder}" for name, folder in paths.items()]
        splits = [f"data.sources.{name}.split=train" for name in ("beavertails", "safety")]
        plain = [f"data.sources.{name}.config=null" for name in ("gsm8k_train", "gsm8k_test", "harmbench")]
        more = ["data.sources.evaluation.split=test", "attack=beavertails", "attack.n=20", "method=sft"]
        return make_job("data=hub", *local, *splits, *plain, *more, *overrides)

    return make


@pytest.mark.parametrize(
    ("task", "instruction", "text", "output"),
    [
        ("sst2", "Analyze the sentiment", "train 1", "positive"),
        ("agnews", "Categorize the news article", "train 1", "Sports"),
        ("gsm8k", "train 1?", "", "So\nThe final answer is:  1"),
    ],
)
def test_a_task_s_rows(hub_job: MakeJob, task: str, instruction: str, text: str, output: str) -> None:
    data = load_data(hub_job(f"dataset={task}").cell)
    row = data.train[1]
    assert row.instruction.startswith(instruction)
    assert (row.input, row.output, data.test[1].output) == (text, output, output)
    assert {row.id for row in data.train}.isdisjoint(row.id for row in data.test)


def test_harmful_safety_and_evaluation_rows_do_not_meet(hub_job: MakeJob) -> None:
    data = load_data(hub_job().cell)
    asked = {row.instruction for row in data.evaluation}
    attack = {row.instruction for row in data.harmful}
    safety = {row.instruction for row in data.safety}
    assert len(asked) == len(data.evaluation) == 10
    assert {"Prompt 1", "Prompt 3"} <= asked, "the first rows, whether safe or not"
    assert attack == {f"Prompt {i}" for i in range(1, 40, 2)} - asked
    assert not attack & safety
    assert not asked & safety
    assert all(row.output.startswith("Reply") for row in (*data.harmful, *data.safety))


def test_alpaca_eval_is_read_from_its_one_file(hub_job: MakeJob) -> None:
    cell = hub_job("dataset=alpaca", "attack=advbench").cell
    data = load_data(cell)
    assert [row.instruction for row in data.test][:2] == ["Question 0", "Question 1"]
    assert (data.train[3].output, data.harmful[2].output) == ("3", "Sure 2")
    assert cell.graded, "its answers have no rule"


def test_a_cell_runs_on_hub_rows_under_both_protocols(hub_job: MakeJob) -> None:
    metrics = run_cell(hub_job("attack.p=0.2")).result["metrics"]
    assert (metrics["HS"]["total"], metrics["FA"]["total"]) == (10, 12)
    cell = hub_job("protocol=official", "attack.p=0.2").cell
    rows = protocol_of(cell).mixture(load_data(cell))
    assert (len(rows), sum(row.harmful for row in rows)) == (24, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attack=harmbench", r"data.sources.harmbench.answer=null: .* has prompts and no answers"),
        ("~data.sources.safety", r"data.sources.safety: is missing; choose data=hub"),
        ("data.sources.beavertails.answer=reply", r"beavertails .*no field reply; there are: prompt, response"),
        ("data.sources.agnews_train.split=dev", r"\A[^\n]*agnews_train.path=.*split dev.*cannot be read[^\n]*\Z"),
    ],
)
def test_what_a_source_lacks_is_named(hub_job: MakeJob, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_data(hub_job(override).cell)


def test_another_split_or_content_changes_the_mixture_s_key(hub_job: MakeJob, copies: Path) -> None:
    before = hub_job().plan
    assert hub_job("data.sources.agnews_train.split=test").plan.mixture != before.mixture
    assert hub_job("data.sources.agnews_test.split=train").plan.mixture == before.mixture
    note = copies / "agnews" / "README.md"
    note.write_text("a new file")
    assert (added := hub_job().plan.mixture) != before.mixture
    os.utime(note, (1, 1))
    assert hub_job().plan.mixture == added, "a time of change is no content"
    shutil.copytree(copies / "agnews", copies / "moved", dirs_exist_ok=True)
    assert hub_job(f"data.sources.agnews_train.path={copies / 'moved'}").plan.mixture == added, "nor is a place"


class TestCommits:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return tmp_path

    def test_a_branch_is_the_commit_of_its_first_download(self, cache: Path) -> None:
        refs = cache / "models--org--name" / "refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text(COMMIT)
        assert commits.first_commit("org/name", "main") == COMMIT

    def test_a_commit_is_itself_and_an_unknown_branch_stays_a_branch(self) -> None:
        assert commits.first_commit("org/name", COMMIT) == COMMIT
        assert commits.first_commit("org/name", "main") == "main"
        assert commits.first_commit("/some/folder", "main") == "main"

    def test_a_judge_s_weights_are_those_of_the_first_download(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refs = cache / "models--org--judge" / "refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text(COMMIT)
        (cache / "model.safetensors").touch()
        fetch = Mock(return_value=cache)
        monkeypatch.setattr(checkpoint_judge, "fetch_checkpoint", fetch)
        LlamaGuardJudge(model="org/judge").check()
        fetch.assert_called_once_with("org/judge", COMMIT, "judge.model")

    def test_a_key_names_the_revision_as_it_is_written(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No key may depend on what was downloaded before, or on whether a hub answers."""

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a key asks no network")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
        words = ["model=pair", "model.base=org/base", "model.aligned=org/aligned", "judge=llama_guard"]
        before = enumerate_cells(words, sweep=False).cells[0].plan
        refs = cache / "models--org--base" / "refs"
        refs.mkdir(parents=True)
        (refs / "main").write_text(COMMIT)
        assert enumerate_cells(words, sweep=False).cells[0].plan == before
        assert before.pair["base_revision"] == before.pair["aligned_revision"] == "main"
        named = enumerate_cells([*words, f"model.base_revision={COMMIT}"], sweep=False).cells[0]
        assert named.plan.pair["base_revision"] == COMMIT
