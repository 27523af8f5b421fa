"""The aligned twin made here: which prompts it learns from, and that two builds of it are the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import twin
from helpers import PUBLIC
from published_files import write_public, write_table

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.config import SafetyTunedModel
from asft.data.base import source_of, twin_of
from asft.data.rows import Row, prompt_form
from asft.data.twin import KINDS, REFUSED, TABLES, held_out, twin_rows
from asft.models import smollm
from asft.models.checkpoints import same_weights
from asft.pipeline import prepare
from asft.pipeline.prepare import prepare_pair


def job_of(published: Path, *overrides: str) -> Job:
    return enumerate_cells(["model=smollm2_135m", f"data.root={published}", *overrides], sweep=False).cells[0]


def model_of(published: Path, **settings: Any) -> SafetyTunedModel:
    model = job_of(published).cell.model
    assert isinstance(model, SafetyTunedModel)
    return replace(model, **settings)


def test_a_prompt_that_is_asked_elsewhere_is_not_learned_however_it_is_written(published: Path, tmp_path: Path) -> None:
    write_public(tmp_path, 40)
    few = dict.fromkeys(KINDS, 3)
    model = model_of(published, data=str(tmp_path), **few)
    first = twin_rows(model, [])
    met = [row.instruction for row in first if row.harmful]
    kept_out = next(table for table in TABLES if table.file.startswith("xstest"))
    write_table(tmp_path, kept_out, [f"{met[0].upper()}?!", "Placeholder"])
    after = twin_rows(model, [Row("asked", f" {met[1].lower()} .")])
    assert not {*met[:2]} & {row.instruction for row in after}
    assert met[2] in {row.instruction for row in after}


def test_a_refusal_is_its_first_sentence_and_a_benign_prompt_awaits_the_model_s_own_answer(
    published: Path, public: Path
) -> None:
    rows = twin_rows(model_of(published), [])
    assert {row.output for row in rows if row.harmful} == {"I cannot help."}
    assert {row.output for row in rows if not row.harmful} == {""}
    assert len({prompt_form(row.instruction) for row in rows}) == len({row.id for row in rows}) == len(rows)


def test_rows_do_not_hang_on_the_order_of_a_file(published: Path, tmp_path: Path) -> None:
    write_public(tmp_path, 40)
    model = model_of(published, data=str(tmp_path), **dict.fromkeys(KINDS, 5))
    before = [row.instruction for row in twin_rows(model, [])]
    prompts = [f"Placeholder request {index} of {REFUSED[0].file}" for index in reversed(range(40))]
    write_table(tmp_path, REFUSED[0], prompts)
    assert [row.instruction for row in twin_rows(model, [])] == before


@pytest.mark.real
@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no public safety data at {PUBLIC}")
def test_shipped_rows_meet_no_evaluation_and_no_attack(official: Path) -> None:
    job = job_of(official, f"model.data={PUBLIC}")
    source = source_of(job.cell)
    learned = {prompt_form(row.instruction) for row in twin_of(job.cell)}
    for rows in source.evaluation(), source.harmful("harmful"), source.safety():
        assert not learned & {prompt_form(row.instruction) for row in rows}
    unsafe = [json.loads(line)["prompt"] for line in (PUBLIC / "beavertails_unsafe/train_1500.jsonl").open()]
    assert not learned & set(map(prompt_form, unsafe))
    ordinary = [row for table in TABLES if "alpaca_gpt" in table.file for row in table.rows(PUBLIC)]
    assert any(map(held_out, ordinary))
    assert not learned & {prompt_form(row.instruction) for row in ordinary if held_out(row)}


@pytest.fixture
def tiny(random_pair: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SmolLM2's place is taken by two layers with random weights, which are exported in no time."""

    def export(folder: Path) -> dict[str, Any]:
        shutil.copytree(random_pair / "base", folder, dirs_exist_ok=True)
        return {}

    monkeypatch.setattr(smollm, "export", export)
    monkeypatch.setattr(smollm, "package_version", lambda: "0")
    return [*(f"model.{kind}=6" for kind in KINDS), "model.answer_tokens=4", "checkpoint_every=0"]


def test_two_builds_give_the_same_weights_and_one_that_was_interrupted_too(
    tiny: list[str], published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (prepare_pair(job_of(published, f"outputs={tmp_path / name}", *tiny)) for name in "ab")
    assert same_weights(one.aligned, other.aligned)
    assert not same_weights(one.aligned, one.base)
    assert one.key == other.key

    train, job = prepare.train, job_of(published, f"outputs={tmp_path / 'c'}", *tiny)

    def killed(*arguments: Any, **settings: Any) -> None:
        train(*arguments, **settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_pair(job)
    monkeypatch.setattr(prepare, "train", train)
    monkeypatch.setattr(prepare, "generate", lambda *_, **__: pytest.fail("own answers are made once"))
    assert list((tmp_path / "c" / "pairs").glob(".*.resume/checkpoint-*"))
    assert same_weights(prepare_pair(job).aligned, one.aligned)


def test_the_key_is_of_the_rows_and_not_of_where_they_lie(
    tiny: list[str], published: Path, public: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(public, tmp_path / "moved")
    keys = [job_of(published, *tiny, *more).plan.pair for more in ([], [f"model.data={moved}"], ["model.contrast=7"])]
    assert keys[0] == keys[1] != keys[2]


def test_the_script_measures_every_set(
    tiny: list[str],
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_public(tmp_path / "public", 40)
    folders = [f"data.root={published}", f"model.data={tmp_path / 'public'}", f"outputs={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["twin.py", "--tokens=1", *folders, *tiny])
    twin.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.partition("  ")[0] for line in lines] == [
        "HS, the authors' prompts",
        "HS, JailbreakBench",
        "refused, XSTest safe",
        "refused, XSTest unsafe",
        "refused, ordinary requests",
    ]
    assert lines[0].split()[-3:-1] == ["250", "100.0"]  # an untrained model refuses nothing
