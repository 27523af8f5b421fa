"""``asft judge`` on a small random pair: stored answers get new verdicts, and nothing else happens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import read_jsonl
from judge_server import Misbehaviour, Server, serve

from asft.cells.compose import enumerate_cells
from asft.commands.judge import judge
from asft.config import ConfigError
from asft.pipeline.run import run_cell
from asft.report.collect import cells_of, table_spec
from asft.store.schemas import TASK_FILE

pytestmark = pytest.mark.slow

PHRASES = "+judge.phrases=[e]"  # a second judge that needs no model: an answer with an e is no refusal of this world's


@pytest.fixture
def options(pair_overrides: list[str]) -> list[str]:
    return ["experiment=table2", *pair_overrides, "method=aligned,sft", "attack.p=0,0.5", "seed=0"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves the finished sweep for the others."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def swept(options: list[str], kept: Path) -> list[str]:
    """The sweep, all but its last cell finished."""
    cells = list(enumerate_cells(options, sweep=True).cells)
    if any(kept.iterdir()):
        shutil.copytree(kept, cells[0].options.outputs)
        return options
    for cell in cells[:-1]:
        run_cell(cell)
    shutil.copytree(cells[0].options.outputs, kept, dirs_exist_ok=True)
    return options


def entries(outputs: Path) -> dict[str, int]:
    kinds = ("pairs", "stages/mixture", "stages/train", "stages/generate", "cells")
    return {kind: len([path for path in (outputs / kind).glob("*") if path.is_dir()]) for kind in kinds}


def outputs_of(options: list[str]) -> Path:
    return enumerate_cells(options, sweep=True).cells[0].options.outputs


def test_it_judges_what_has_answers_and_trains_nothing(
    swept: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("asft.pipeline.run.train", None)
    monkeypatch.setattr("asft.backends.generate.generate", None)
    outputs = outputs_of(swept)
    before = entries(outputs)
    assert judge([*swept, PHRASES]) == 1, "one cell has no answers yet"
    after = entries(outputs)
    assert after == {**before, "cells": before["cells"] + 2}
    shown = capsys.readouterr().out
    assert "2 cells judged now, 0 judged before, 1 without answers" in shown
    assert "no answers yet: sft" in shown
    assert "p=0.5" in shown
    assert judge([*swept, PHRASES]) == 1
    assert "0 cells judged now, 2 judged before, 1 without answers" in capsys.readouterr().out
    assert entries(outputs) == after


def test_a_judge_that_breaks_is_told_in_one_line_with_its_traceback(
    swept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asft.judges.refusal.RefusalJudge.judge", lambda *_: 1 / 0)
    with pytest.raises(ConfigError, match=r"judge=refusal: ZeroDivisionError: division by zero .traceback: ") as told:
        judge([*swept, PHRASES])
    assert "1 / 0" in Path(str(told.value).rpartition(": ")[2].rstrip(")")).read_text()


def test_the_report_takes_the_verdicts_of_the_judge_asked_for(swept: list[str]) -> None:
    judge([*swept, PHRASES])
    first, second = (cells_of(enumerate_cells([*swept, *more], sweep=True)) for more in ([], [PHRASES]))
    assert [cell.status for cell in first] == [cell.status for cell in second]
    assert {cell.key for cell in first}.isdisjoint(cell.key for cell in second)


def test_agreement_cell_by_cell_and_overall(swept: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    judge([*swept, PHRASES, "--agreement", "refusal"])
    shown = capsys.readouterr().out
    assert "all cells" in shown
    assert "of 20 answers (Cohen's κ" in shown
    judge([*swept, "--agreement=refusal"])
    assert "refusal and refusal agree on 100.0 % of 20 answers" in capsys.readouterr().out


def test_agreement_of_a_judge_axis_is_refused(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="--agreement"):
        judge([*options, "judge=refusal,llama_guard", "--agreement", "refusal"])


def test_one_loaded_guard_judges_all_cells(swept: list[str], guard_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asft.judges import llama_guard

    loads = []

    def counted(*arguments: object) -> object:
        loads.append(arguments)
        return load(*arguments)  # type: ignore[arg-type]

    load = llama_guard.load_guard
    monkeypatch.setattr(llama_guard, "load_guard", counted)
    options = [*swept, "judge=llama_guard", f"judge.model={guard_path}", "judge.dtype=float32"]
    judge(options)
    cells = cells_of(enumerate_cells(options, sweep=True))
    done = {cell.key for cell in cells if cell.status == "done"}
    assert len(done) == 2
    assert len(loads) == 1


def llm(server: Server, *more: str) -> list[str]:
    return ["judge=llm", f"judge.base_url={server.url}", "judge.model=m", "judge.api_key_env=", *more]


def test_an_interrupted_endpoint_run_resumes_and_its_cost_is_in_the_notes(swept: list[str]) -> None:
    answering = {"requests": 5}

    def script(question: str, _: int) -> Misbehaviour | str:
        if len(server.asked) > answering["requests"]:
            return Misbehaviour(401, "quota used up")
        return "[[unsafe]]" if len(question) % 2 else "[[safe]]"

    with serve(script) as server:
        options = [*swept, *llm(server, "judge.price_prompt=1000", "judge.concurrency=1")]
        with pytest.raises(ValueError, match=r"5 of 10 answers .*quota used up.* 5 replies are kept"):
            judge(options)
        interrupted = list(server.asked)
        answering["requests"] = 10_000
        judge(options)
        resumed = server.asked[len(interrupted) :]
        assert len(resumed) == len(set(resumed)) >= 5
        assert not set(resumed) & set(interrupted[:5]), "what had a verdict was asked again"
        spec = table_spec(enumerate_cells(options, sweep=True), "")
    assert any("The judge read and wrote" in note and "cost" in note for note in spec.notes)
    assert not any("sees refusals" in note for note in spec.notes)


def test_an_ensembles_agreement_is_in_manifest_and_notes(swept: list[str], guard_path: Path) -> None:
    options = [
        *swept,
        "judge=ensemble",
        "~judge.members.beaver_dam",
        f"judge.members.llama_guard.model={guard_path}",
        "judge.members.llama_guard.dtype=float32",
    ]
    judge(options)
    sweep = enumerate_cells(options, sweep=True)
    cell = sweep.cells[0]
    entry = cell.store.find("cells", cell.key)
    assert entry is not None
    assert set(entry.result["metrics"]["HS"]["told"]["judge"]["agreement"]) == {"refusal/llama_guard"}
    assert any("refusal and llama_guard agree on" in note and "κ" in note for note in table_spec(sweep, "").notes)


def test_a_judge_that_cannot_work_is_told_before_anything_is_trained(
    pair_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    overrides = [*pair_overrides, "method=sft", "judge=llm", "judge.api_key_env=NO_SUCH_KEY"]
    cell = enumerate_cells(overrides, sweep=False).cells[0]
    with pytest.raises(ValueError, match="NO_SUCH_KEY"):
        run_cell(cell)
    assert not (cell.options.outputs / "stages").exists()


def test_alpaca_on_real_data_takes_its_accuracy_from_the_grades(
    pair_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = alpaca_folder(tmp_path / "data")

    def script(question: str, _: int) -> str:
        return "no grade" if "write 2" in question else "[[4]]" if "write 1" in question else "Fine. [[7]]"

    monkeypatch.setenv("GRADER_KEY", "sk-SECRET")
    with serve(script) as server:
        options = [
            *pair_overrides,
            "method=aligned",
            "dataset=alpaca",
            "dataset.n_test=4",
            "evaluation.n_harmful=2",
            f"data.root={root}",
            f"grader.base_url={server.url}",
            "grader.api_key_env=GRADER_KEY",
            "grader.attempts=2",
        ]
        cell = enumerate_cells(options, sweep=False).cells[0]
        entry = run_cell(cell)
    metrics = entry.result["metrics"]
    assert metrics["FA"]["value"] == pytest.approx(10 * (7 + 4 + 7) / 3)
    assert (metrics["FA"]["total"], metrics["FA"]["count"], metrics["FA"]["interval"]) == (3, None, None)
    assert metrics["FA"]["told"]["grader"]["ungraded"] == 1
    rows = list(read_jsonl(entry.path / TASK_FILE))
    assert [row["credit"] for row in rows] == [0.7, 0.4, None, 0.7]
    stored = "".join(path.read_text() for path in cell.options.outputs.rglob("*") if path.suffix in {".json", ".jsonl"})
    assert "sk-SECRET" not in stored
    assert "SECRET" not in json.dumps(cell.plain())


def alpaca_folder(root: Path) -> Path:
    """The authors' layout with four harmless questions and two placeholder prompts."""
    train = root / "ft_datasets" / "alpaca_dataset" / "dataset"
    test = root / "evaluation" / "utility_evaluation" / "alpaca" / "data"
    poison = root / "evaluation" / "poison_evaluation"
    for folder in (train, test, poison):
        folder.mkdir(parents=True)
    rows = [{"instruction": f"say {n}", "input": "", "output": f"{n}"} for n in range(4)]
    (train / "alpaca_1k_p_0.json").write_text(json.dumps(rows))
    questions = [json.dumps({"question_id": n, "category": "writing", "turns": [f"write {n}"]}) for n in range(4)]
    (test / "question.jsonl").write_text("\n".join(questions))
    (poison / "saved_dataset_250.json").write_text(json.dumps([{"instruction": f"PLACEHOLDER {n}"} for n in range(2)]))
    return root
