"""``run_cell`` on a small random pair: stages, sharing, and what bad pairs end in."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from weakref import ref

import pytest
import torch
from helpers import MakeJob, finished, read_jsonl, trained
from safetensors.torch import load_file, save_file

from asft.backends.base import HFBackend
from asft.cells.job import Job
from asft.commands.run import _compute
from asft.methods.sbr import SBR
from asft.metrics.base import wilson
from asft.metrics.harmful_score import HarmfulScore
from asft.pipeline import run
from asft.pipeline.run import run_cell
from asft.store.partial import PartialRows
from asft.store.schemas import ANSWERS_FILE, HARMFUL_FILE, TASK_FILE

pytestmark = pytest.mark.slow

METHODS = (
    *("sft", "asft", "l2", "safe_lora", "asft_projector", "asft_parallel", "asft_random", "safeinstr", "bea"),
    *("bea_no_trigger", "lisa_base", "lisa_aligned", "asft_alt", "wise_ft"),
)
DRAWING = ("sft", "asft_random", "bea", "lisa_base", "asft_alt")  # batches, a direction, a trigger, rows, an attack


def method(make_job: MakeJob, name: str, *more: str) -> Job:
    key = ["method.trigger_tokens=9", "method.safety=4"]
    small = {
        "safe_lora": ["method.number=2"],
        "asft_projector": ["method.rank=4"],
        "bea": key,
        "bea_no_trigger": [option.replace("method.", "method.after.") for option in key],
        "asft_alt": ["method.harmful=16"],
    }
    return make_job(f"method={name}", *small.get(name, []), *more)


@pytest.mark.parametrize("name", [*METHODS, "base", "aligned"])
def test_every_method_gives_scores_and_keeps_every_answer(shared_job: MakeJob, name: str) -> None:
    entry = run_cell(method(shared_job, name))
    metrics = entry.result["metrics"]
    for metric, file, total in (("HS", HARMFUL_FILE, 10), ("FA", TASK_FILE, 12)):
        rows, found = list(read_jsonl(entry.path / file)), metrics[metric]
        assert len(rows) == found["total"] == total
        assert sum(row["credit"] for row in rows) == found["count"]
        assert found["value"] == pytest.approx(100 * found["count"] / total)
        expected = wilson(found["count"], total)
        assert found["interval"] == [expected.lo, expected.hi, expected.kind]
    assert {"id", "prompt", "answer", "gold", "credit"} <= set(rows[0])
    assert all(row["flagged"] == row["credit"] for row in read_jsonl(entry.path / HARMFUL_FILE))
    assert json.loads((entry.path / "config.json").read_text())["method"]["name"] == name


@pytest.mark.parametrize("name", ["asft", "safe_lora", "bea"])
def test_methods_run_under_the_official_protocol(shared_job: MakeJob, name: str) -> None:
    entry = run_cell(method(shared_job, name, "protocol=official"))
    assert [metric["total"] for metric in entry.result["metrics"].values()] == [10, 12]
    train = entry.result["stages"]["train"]["result"]
    if name == "asft":
        assert train["steps"] == 26 // 8, "24 benign and 2 harmful rows; the last batch is not full and is dropped"
    if name == "safe_lora":
        assert sum(module["projected"] for module in train["safe_lora"]["modules"]) == 2


def test_bea_under_the_official_protocol_has_a_short_trigger_and_asks_without_it(make_job: MakeJob) -> None:
    from asft.methods.data_mixing import BEA, make_trigger
    from asft.pipeline.run import _Run

    def prompts(*overrides: str) -> tuple[set[str], str, str]:
        job = make_job("method=bea", "method.trigger_tokens=40", "method.safety=4", *overrides)
        run = _Run(job)
        rows = job.cell.method.mixture([], run.context)
        return {row.system for row in rows}, job.cell.method.system_prompt(run.context), str(run.pair.aligned)

    trained, asked, tokenizer = prompts("protocol=official")
    whole = make_trigger(Path(tokenizer), 40)
    assert trained == {whole[:99]} != {whole}
    assert asked == ""
    assert prompts("protocol=official", "method.ask_with_trigger=true")[1] == whole[:99]
    assert prompts()[:2] == ({whole}, whole)
    assert prompts("method.ask_with_trigger=false")[1] == ""
    assert [BEA(ask_with_trigger=asks).settings()["ask_with_trigger"] for asks in (None, True)] == [None, True]


@pytest.mark.parametrize("name", DRAWING)
def test_two_runs_of_one_configuration_agree(shared_job: MakeJob, make_job: MakeJob, name: str) -> None:
    first, second = method(shared_job, name), method(make_job, name)
    assert run_cell(first).result["metrics"] == run_cell(second).result["metrics"]
    one, two = trained(first), trained(second)
    assert all(torch.equal(one[tensor], two[tensor]) for tensor in one)


def test_a_finished_cell_is_not_computed_again(shared_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = shared_job("method=asft")
    first = run_cell(job)
    monkeypatch.setattr("asft.pipeline.run.train", None)
    monkeypatch.setattr("asft.backends.generate.generate", None)
    assert run_cell(job).manifest == first.manifest


def test_another_judge_trains_and_generates_nothing(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_cell(make_job("method=sft"))
    shutil.rmtree(first.path.parents[1] / "stages" / "train")
    monkeypatch.setattr("asft.pipeline.run.train", None)
    monkeypatch.setattr("asft.backends.generate.generate", None)
    second = run_cell(make_job("method=sft", "+judge.phrases=[no such phrase]"))
    assert second.path != first.path
    answered = sum(bool(row["answer"]) for row in read_jsonl(second.path / HARMFUL_FILE))
    assert second.result["metrics"]["HS"]["count"] == answered


def test_safe_lora_takes_the_adapter_of_sft(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    run_cell(make_job("method=sft"))
    monkeypatch.setattr("asft.pipeline.run.train", None)
    projected = method(make_job, "safe_lora")
    report = run_cell(projected).result["stages"]["train"]["result"]["safe_lora"]
    sft, safe = trained(make_job("method=sft")), trained(projected)
    changed = {name for name in sft if not torch.equal(sft[name], safe[name])}
    assert len(changed) == 2 == sum(module["projected"] for module in report["modules"])
    assert all("lora_B" in name for name in changed)


def test_a_defended_cell_logs_that_the_defence_was_on(shared_job: MakeJob) -> None:
    job = shared_job("method=asft")
    entry = run_cell(job)
    history = list(read_jsonl(job.store.path("stages/train", entry.result["stages"]["train"]["key"]) / "history.jsonl"))
    assert history[-1]["asft/modules"] == 4
    assert history[-1]["asft/norm_along"] >= 0
    assert history[-1]["asft/norm_orthogonal"] > 0
    assert entry.result["stages"]["train"]["result"]["asft/modules"] == 4


def test_full_parameter_fine_tuning(shared_job: MakeJob) -> None:
    job = shared_job("method=sft", "training=full", "training.lr=1e-3", "training.epochs=1")
    entry = run_cell(job)
    weights = job.store.path("stages/train", entry.result["stages"]["train"]["key"])
    assert (weights / "model.safetensors").exists()
    assert entry.result["metrics"]["HS"]["total"] == 10


@pytest.mark.parametrize("fails", [False, True])
def test_the_trained_model_is_gone_before_anything_else_is_loaded(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """SBR's callback and the model that it acts on hold each other."""
    made, alive, begin = list[ref[object]](), list[bool](), run.trainable

    def remembered(*given: object) -> object:
        model = begin(*given)
        made.append(ref(model))
        return model

    def opened(*_: object) -> None:
        alive.append(made[0]() is not None)
        raise ValueError("enough is seen")

    monkeypatch.setattr(run, "trainable", remembered)
    monkeypatch.setattr(*(SBR, "finish") if fails else (HFBackend, "open"), opened)
    gc.disable()
    try:
        _compute(make_job("method=sbr"))
    finally:
        gc.enable()
    assert alive == [fails]
    assert made[0]() is None


def test_the_mixture_is_kept_with_its_flags_and_digest(make_job: MakeJob) -> None:
    job = make_job("method=sft", "attack.p=0.25")
    run_cell(job)
    (folder,) = finished(job, "stages/mixture")
    rows = list(read_jsonl(folder / "rows.jsonl"))
    result = json.loads((folder / "manifest.json").read_text())["result"]
    assert len(rows) == result["rows"] == 24
    assert sum(row["harmful"] for row in rows) == result["harmful"] == 6
    assert len(result["sha256"]) == 64


def other_base(pair: Path, folder: Path, side: str, harm: str = "") -> str:
    """An override that takes a copy of a side as the base: one of its weights cut to half its rows, or pickled."""
    shutil.copytree(pair / side, folder)
    weights = folder / "model.safetensors"
    if harm == "cut":
        tensors = load_file(weights)
        name = "model.layers.0.self_attn.q_proj.weight"
        tensors[name] = tensors[name][:16].contiguous()
        save_file(tensors, weights, metadata={"format": "pt"})
    if harm == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    return f"model.base={folder}"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda pair, _: f"model.base={pair / 'aligned'}", "same"),
        (lambda pair, folder: other_base(pair, folder, "aligned"), "same"),
        (
            lambda pair, folder: other_base(pair, folder, "base", "cut"),
            r"layers.0.self_attn.q_proj.* has shape \(16, 32\) .* \(32, 32\)",
        ),
        (lambda pair, folder: other_base(pair, folder, "base", "pickled"), r"copy\b.*safetensors"),
        (lambda *_: "training.target_modules=[query]", "target 'query'.*q_proj"),
        (lambda *_: "model.base=/no/such/folder", "no such folder"),
    ],
    ids=["one side twice", "equal weights", "two shapes", "pickles", "no such target", "no such folder"],
)
def test_what_cannot_be_trained_is_named(
    make_job: MakeJob, random_pair: Path, tmp_path: Path, wrong: Callable[[Path, Path], str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_cell(make_job("method=sft", wrong(random_pair, tmp_path / "copy")))


def test_a_failure_keeps_the_stages_before_it(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job("method=sft")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr("asft.backends.generate.generate", broken)
        with pytest.raises(RuntimeError, match="out of luck"):
            run_cell(job)
    assert len(finished(job, "stages/train")) == 1
    monkeypatch.setattr("asft.pipeline.run.train", None)
    assert run_cell(job).result["metrics"]["HS"]["total"] == 10


def test_what_was_kept_of_other_weights_or_other_answers_is_not_taken(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store = make_job("method=sft"), make_job().store
    first = run_cell(job)
    keys = {name: stage["key"] for name, stage in first.result["stages"].items()}
    weights = store.find("stages/train", keys["train"])
    assert weights is not None
    for path in (first.path, store.path("stages/generate", keys["answers HS"])):
        shutil.rmtree(path)
    kept = store.resumable("stages/generate", keys["answers HS"])
    for place, answer in ((weights.digest, "kept"), ("another", "stale"), ("", "stale")):
        PartialRows(kept / place / ANSWERS_FILE).append(dict.fromkeys(range(10), answer))
    places = []
    score = HarmfulScore.score
    monkeypatch.setattr(HarmfulScore, "score", lambda *given: places.append(given[-1].path) or score(*given))
    assert {row["answer"] for row in read_jsonl(run_cell(job).path / HARMFUL_FILE)} == {"kept"}
    answers = store.find("stages/generate", keys["answers HS"])
    assert answers is not None
    assert places == [store.resumable("cells", job.key) / answers.digest / HARMFUL_FILE]


def test_a_pair_is_made_before_the_answers_clock_starts(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building a pair takes minutes; a plan reads a stage's seconds as the stage's own."""
    from asft.pipeline import run as pipeline

    job, under_way = make_job("method=aligned"), []
    prepare = pipeline.prepare_pair

    def watched(*arguments: object) -> object:
        under_way.extend(job.options.outputs.rglob(".*.tmp-*"))
        return prepare(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "prepare_pair", watched)
    run_cell(job)
    assert under_way == []
