"""Other public sets beside the authors' files: how each is read, and that no two pools of a cell share a prompt."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from helpers import OFFICIAL

from asft.cells.compose import enumerate_cells
from asft.data.base import Data, disjoint, load_data
from asft.data.choices import choice_row
from asft.data.gate import Record
from asft.data.hub import table_identity
from asft.data.rows import Row, prompt_form, user_text
from asft.planning.ahead import left_out

PUBLIC = OFFICIAL.parent / "public_safety"
TASKS = ("agnews", "sst2", "gsm8k", "alpaca")
SOURCES = {"harmful": 293, "advbench": 520, "beavertails": 1477, "harmbench": 200}  # rows that an attack may take


def write_csv(path: Path, rows: list[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def words(published: Path, tmp_path: Path) -> list[str]:
    """A cell on placeholder files; AdvBench repeats an evaluation prompt in other letters, and a safety prompt."""
    goals = ["placeholder: Evaluation, request 3!", "Placeholder request 150.", *(f"Goal {i}" for i in range(30))]
    write_csv(tmp_path / "advbench/harmful_behaviors.csv", [{"goal": goal, "target": "Sure."} for goal in goals])
    behaviours = [
        {"Behavior": f"Behaviour {i}", "FunctionalCategory": ("standard", "copyright")[i % 2], "BehaviorID": f"b{i}"}
        for i in range(40)
    ]
    write_csv(tmp_path / "harmbench/harmbench_behaviors_text_all.csv", behaviours)
    targets = {f"b{i}": f"Here is {i}" for i in range(40)}
    (tmp_path / "harmbench/harmbench_targets_text.json").write_text(json.dumps(targets))
    asked = [{"prompt": f"Prompt {i}", "label": ("safe", "unsafe")[i % 2]} for i in range(10)]
    write_csv(tmp_path / "xstest/xstest_prompts.csv", asked)
    return ["data=files", f"data.root={published}", f"data.public={tmp_path}", "model=pair", "model.base=a/b"]


def data_of(*words: str) -> Data:
    return load_data(enumerate_cells([*words, "model.aligned=a/c"], sweep=False).cells[0].cell)


def forms(rows: list[Row]) -> set[str]:
    return {prompt_form(user_text(row)) for row in rows}


def test_what_two_pools_share_is_left_out_and_counted(words: list[str]) -> None:
    data = data_of(*words, "attack=advbench", "attack.n=20")
    assert len(data.harmful) == 31
    assert len(data.safety) == 99
    assert data.left_out == {"evaluation": 0, "twin": 0, "harmful": 1, "safety": 1, "train": 0}
    pools, lost = disjoint(first=[Row("1", "Do it!"), Row("2", "do it")], second=[Row("3", "DO  it."), Row("4", "?!")])
    assert [row.id for pool in pools.values() for row in pool] == ["1", "2", "4"]
    assert lost == {"first": 0, "second": 1}


def test_answers_may_lie_in_a_file_of_their_own(words: list[str], tmp_path: Path) -> None:
    data = data_of(*words, "attack=harmbench", "attack.n=20")
    assert {row.instruction: row.output for row in data.harmful[:2]} == {
        "Behaviour 0": "Here is 0",
        "Behaviour 2": "Here is 2",
    }
    assert [row.instruction for row in data.source.look_alikes()] == [f"Prompt {i}" for i in range(0, 10, 2)]
    targets = tmp_path / "harmbench/harmbench_targets_text.json"
    before = table_identity(data.source.source("harmbench"))  # type: ignore[attr-defined]
    targets.write_text(json.dumps({"b0": "Other"}))
    assert table_identity(data.source.source("harmbench")) != before  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"harmbench_targets_text.json.*no field b2"):
        data_of(*words, "attack=harmbench", "attack.n=20")
    targets.unlink()
    with pytest.raises(ValueError, match=r"answers=.*there is no such file"):
        data_of(*words, "attack=harmbench", "attack.n=20")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data.public=null", "attack=advbench"], "data.public=null: advbench is read from a folder"),
        (["attack=beavertails"], "beavertails_unsafe/train_1500.jsonl: there is no such file"),
        (["attack=advbench", "~data.sources.advbench"], "attack=advbench: data.sources.advbench is missing"),
    ],
)
def test_what_a_folder_lacks_is_told(words: list[str], more: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_of(*words, *more)


def test_a_probe_that_has_no_file_is_left_out(words: list[str]) -> None:
    def beside(*more: str) -> tuple[list[str], list[str]]:
        (job,) = enumerate_cells([*words, "model.aligned=a/c", "attack.n=20", *more], sweep=False).cells
        return [*job.plan.beside], left_out([job, job])

    assert beside() == (["OR", "ability", "coherence"], [])
    for more, kept, told in (
        ("data.public=null", ["coherence"], "OR, ability: not scored; data.public=null: look_alikes is read"),
        ("~data.sources.choices", ["OR", "coherence"], "ability: not scored; data.sources.choices is missing"),
    ):
        there, (line,) = beside(more)
        assert (there, line[: len(told)]) == (kept, told)


FORMS = {
    "places": {"question": "How many?", "choices": ["one", "two"], "answer": 1},
    "texts": {"question": "How many?", "choices": ["one", "two"], "answer": "two"},
    "ai2_arc": {"question": "How many?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "B"},
    "adapters": {
        "instruction": "Choose: question: How many?\n\nAnswer1: one Answer2: two\n\nAnswer format: answer1/answer2",
        "answer": "answer2",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_questions_of_every_form_are_put_alike(form: str) -> None:
    row = choice_row("0", Record(FORMS[form], "a file, record 0"))
    assert (row.instruction, row.options, row.output) == ("Question: How many?\nAnswer:", ("one", "two"), "two")


@pytest.mark.parametrize(
    ("form", "change", "field"),
    [
        ("places", {"answer": 2}, "answer=2"),
        ("places", {"answer": True}, "answer=true"),
        ("places", {"choices": ["one"]}, "choices="),
        ("texts", {"answer": "three"}, "answer="),
        ("ai2_arc", {"answerKey": "C"}, "answerKey="),
        ("ai2_arc", {"question": " "}, "question="),
        ("adapters", {"answer": "answer3"}, "answer="),
        ("adapters", {"instruction": "How many?"}, "instruction="),
    ],
)
def test_a_question_that_is_none_is_refused_by_its_place(form: str, change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^a file, record 0: {field}"):
        choice_row("0", Record(FORMS[form] | change, "a file, record 0"))


def test_an_evaluation_that_takes_rows_from_the_pools_is_in_the_keys_of_what_is_drawn_from_them(
    published: Path, tmp_path: Path
) -> None:
    root = tmp_path / "files"
    shutil.copytree(published, root)
    file = root / "evaluation/poison_evaluation/saved_dataset_250.json"
    asked = json.loads(file.read_text())
    words = ["data=files", f"data.root={root}", "model=pair", "model.base=a/b", "model.aligned=a/c", "attack.n=20"]

    def keys(prompt: str) -> list[str]:
        file.write_text(json.dumps([{**asked[0], "instruction": prompt}, *asked[1:]]))
        plans = [enumerate_cells([*words, f"method={name}"], sweep=False).cells[0].plan for name in ("sft", "sbr")]
        return [str(settings) for plan in plans for settings in (plan.mixture, plan.train)]

    first, new = keys(asked[0]["instruction"]), keys("A new one")
    drawn = data_of(*words, "method=sft").harmful[0].instruction
    assert first == new
    assert all(one != other for one, other in zip(keys(f"{drawn}!!"), new, strict=True))


@pytest.mark.real
def test_the_real_pools_are_disjoint_by_prompt(official: Path) -> None:
    if not PUBLIC.is_dir():
        pytest.skip(f"no copy of the public sets at {PUBLIC}")
    words = ["data=files", f"data.root={official}", f"data.public={PUBLIC}", "attack.n=100"]
    words += ["model=smollm2_135m", f"model.data={PUBLIC}"]
    for source, count in SOURCES.items():
        for task in TASKS:
            job = enumerate_cells([*words, f"attack={source}", f"dataset={task}"], sweep=False).cells[0]
            data = load_data(job.cell)
            assert len(data.harmful) == count
            assert len(data.safety) == 98
            lost = 23 if source == "beavertails" else 0
            assert data.left_out == {"evaluation": 0, "twin": 0, "harmful": lost, "safety": 0, "train": 0}
            pools = [forms(rows) for rows in (data.evaluation, data.harmful, data.safety, data.train, data.test)]
            pools += [forms(data.twin), forms(data.source.look_alikes())]
            assert data.twin
            assert [len(one & other) for one, other in combinations(pools, 2)] == [0] * 21
    questions = data.source.choices()
    assert (len(questions), len(data.source.look_alikes())) == (2376, 250)
