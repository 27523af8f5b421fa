"""vLLM in the place of transformers: the same questions, the same files; run here against a stand-in (fake_vllm.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import fake_vllm
import pytest
import torch
from changed_pair import changed_pair
from helpers import MakeJob, read_jsonl
from safetensors.torch import load_file, save_file

from asft.backends.base import HFBackend, Weights
from asft.backends.vllm import VLLMBackend
from asft.cells.compose import enumerate_cells
from asft.config import ConfigError
from asft.models.pair import Pair, resolve_device
from asft.pipeline.run import run_cell
from asft.planning.doctor import examine
from asft.store.partial import PartialRows
from asft.store.schemas import HARMFUL_FILE, TASK_FILE


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[fake_vllm.LLM]:
    monkeypatch.setattr(VLLMBackend, "check", lambda self: None)  # there is no CUDA device here
    return fake_vllm.install(monkeypatch)


@pytest.fixture
def penalised(random_pair: Path, tmp_path: Path) -> list[str]:
    """Overrides that take a copy of the pair whose checkpoints ask for a repetition penalty, as Qwen2's do."""
    return changed_pair(random_pair, tmp_path, "generation_config.json", repetition_penalty=1.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "adapter"),
    [
        (["method=aligned"], False),
        (["method=sft", "training.rank=4"], True),
        (["method=sft", "training=full", "training.lr=1e-3"], False),
    ],
    ids=["untouched", "adapter", "full"],
)
def test_both_backends_give_the_same_files(
    make_job: MakeJob, engines: list[fake_vllm.LLM], penalised: list[str], overrides: list[str], adapter: bool
) -> None:
    hf = run_cell(make_job(*overrides, *penalised))
    vllm = run_cell(make_job(*overrides, *penalised, "backend=vllm"))
    for name in (HARMFUL_FILE, TASK_FILE):
        assert list(read_jsonl(vllm.path / name)) == list(read_jsonl(hf.path / name))
    assert any(row["answer"] for row in read_jsonl(hf.path / HARMFUL_FILE))
    (engine,) = engines
    assert engine.asked == 10 + 12
    assert bool(engine.adapters) == adapter
    assert engine.max_lora_rank == (8 if adapter else 1)
    assert not engine.llm_engine.engine_core.running, "the GPU is given back"
    for stage in ("answers HS", "answers FA"):
        assert vllm.result["stages"][stage]["key"] != hf.result["stages"][stage]["key"]


@pytest.mark.slow
def test_each_number_format_of_the_protocol_has_an_engine_of_its_own(
    make_job: MakeJob, engines: list[fake_vllm.LLM]
) -> None:
    run_cell(make_job("method=aligned", "protocol=official", "backend=vllm"))
    assert {str(engine.model.dtype): engine.asked for engine in engines} == {"torch.float16": 10, "torch.bfloat16": 12}


def test_answers_of_an_interrupted_run_are_not_asked_for_again(
    random_pair: Path, engines: list[fake_vllm.LLM], tmp_path: Path
) -> None:
    pair = Pair(random_pair / "base", random_pair / "aligned", key="")
    prompts = [[20, 21, 22], [23, 24], [25, 26]]
    weights = Weights(pair, "base", None, resolve_device("cpu"), positions=20)
    kept = PartialRows(tmp_path / "answers.jsonl")
    kept.append({1: "kept"})
    model = VLLMBackend().open(weights, batch_size=1)
    first = model.answer(prompts, 4, kept)
    assert first[1] == "kept"
    assert engines[0].asked == 2
    assert model.answer(prompts, 4, PartialRows(tmp_path / "answers.jsonl")) == first
    assert engines[0].asked == 2
    model.close()


def test_vllm_cuts_answers_at_their_ends_and_warns_where_all_are_empty(
    random_pair: Path, engines: list[fake_vllm.LLM], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair, prompts = Pair(random_pair / "base", random_pair / "aligned", key=""), [[20, 21, 22], [23, 24]]
    for ends in (
        (),
        tuple(range(len(pair.tokenizer()))),
    ):  # every token ends an answer, though none but a few is special
        model = VLLMBackend().open(Weights(pair, "base", None, resolve_device("cpu"), positions=20, ends=ends), 1)
        answers = model.answer(prompts, 4, PartialRows(tmp_path / f"{len(ends)}.jsonl"))
        assert any(answers) is not bool(ends)
        assert ("all 2 answers are empty" in caplog.text) is bool(ends)
        model.close()


def test_an_engine_that_does_not_start_is_told(
    random_pair: Path, engines: list[fake_vllm.LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Engine core initialization failed.\nSee the stack above.")

    monkeypatch.setattr(fake_vllm.LLM, "__init__", fail)
    pair = Pair(random_pair / "base", random_pair / "aligned", key="")
    with pytest.raises(ValueError, match=r"initialization failed\.\).*backend\.gpu_memory_utilization"):
        VLLMBackend().open(Weights(pair, "base", None, resolve_device("cpu"), positions=20), batch_size=1)


def test_a_small_update_of_16_bit_weights_is_not_rounded_away(random_pair: Path, tuned: Path, tmp_path: Path) -> None:
    pair, device = Pair(random_pair / "base", random_pair / "aligned", key="", dtype="bfloat16"), resolve_device("cpu")
    small = shutil.copytree(tuned, tmp_path / "small")
    factors = load_file(small / "adapter_model.safetensors")
    save_file(
        {name: 1e-4 * x if "lora_B" in name else x for name, x in factors.items()}, small / "adapter_model.safetensors"
    )
    place = "model.layers.0.self_attn.v_proj"
    start = pair.load("aligned", device).get_submodule(place)
    x = torch.eye(start.in_features)
    b, a = (factors[f"base_model.model.{place}.lora_{factor}.weight"] for factor in "BA")
    wanted = 1e-4 * 8 / 2 * b @ a

    def moved(merge: bool) -> torch.Tensor:
        weights = Weights(pair, "aligned", small, device, merge=merge)
        model = HFBackend().open(weights, 1).model.float()
        found = next(module for name, module in model.named_modules() if name.endswith(place))
        return (found(x) - x @ start.weight.float().T).T.detach()

    torch.testing.assert_close(moved(merge=False), wanted, rtol=1e-2, atol=1e-6)
    assert (moved(merge=True) - wanted).norm() > 0.5 * wanted.norm()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "merges"),
    [
        ([], False),
        (["evaluation.dtype=float32"], True),
        (["model.dtype=float32"], True),
        (["model.dtype=float32", "evaluation.dtype=bfloat16"], False),
        (["protocol=official"], True),
    ],
)
def test_an_adapter_is_merged_where_nothing_is_lost_or_the_authors_do(
    make_job: MakeJob, overrides: list[str], merges: bool
) -> None:
    job = make_job("method=sft", "model.dtype=bfloat16", *overrides)
    assert job.cell.merges is merges
    assert all(("adapter" in asked) is not merges for asked in job.plan.generate.values())
    assert "adapter" not in next(iter(make_job("method=aligned").plan.generate.values())), "nothing to merge"
    if not overrides:
        assert any(row["answer"] for row in read_jsonl(run_cell(job).path / HARMFUL_FILE))


def test_what_changes_no_answer_changes_no_key(make_job: MakeJob) -> None:
    hf, vllm = make_job().plan, make_job("backend=vllm").plan
    assert all(asked["backend"] == {"name": "hf", "code": 1} for asked in hf.generate.values())
    assert vllm.train == hf.train
    assert vllm.key != hf.key
    faster = make_job("backend=vllm", "backend.tensor_parallel_size=2", "backend.gpu_memory_utilization=0.5").plan
    assert faster.key == vllm.key


def test_a_missing_package_and_a_missing_gpu_are_told(
    pair_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def finding() -> str:
        cells = list(enumerate_cells([*pair_overrides, "backend=vllm"], sweep=True).cells)
        (found,) = [found for found in examine(cells) if found.what == "backend=vllm"]
        assert found.state == "missing"
        return found.text

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert 'pip install "asft-lab[vllm]"' in finding()
    fake_vllm.install(monkeypatch)
    assert "no CUDA device is visible; use backend=hf" in finding()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("device=cpu", "answers on GPUs"),
        ("model.quantization=4bit", "use backend=hf"),
        ("measure=epl", "measure=epl asks by transformers"),
    ],
)
def test_settings_that_vllm_cannot_serve_are_refused(make_job: MakeJob, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"backend=vllm: .*{words}"):
        make_job("backend=vllm", "training.lr=1e-4", override)
