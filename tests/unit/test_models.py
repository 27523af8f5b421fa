"""How a checkpoint is loaded: quantised, spread over devices, or refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers import MakeJob
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from asft.cells.checks import cross_checks
from asft.cells.compose import enumerate_cells
from asft.config import ConfigError
from asft.door import read_model
from asft.methods.sft import SFT
from asft.models.checkpoints import fetch_checkpoint
from asft.models.organism import PUBLISHED
from asft.models.organism.recipe import BuildRecipe
from asft.models.pair import Pair, load_like, load_model, require_quantization
from asft.pipeline.prepare import prepare_pair
from asft.pipeline.run import run_cell

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize("method", ["base", "lisa_base"])
@pytest.mark.parametrize("missing", ["a mark of the chat template", "the padding"])
def test_a_side_with_fewer_embeddings_than_the_tokenizer_has_tokens_is_told(
    make_job: MakeJob, random_pair: Path, tmp_path: Path, method: str, missing: str
) -> None:
    tokenizer, model = (cls.from_pretrained(random_pair / "base") for cls in (AutoTokenizer, AutoModelForCausalLM))
    shutil.copytree(random_pair / "aligned", aligned := tmp_path / "aligned")
    if missing == "the padding":
        tokenizer.add_special_tokens({"pad_token": "<padding>"})
    else:
        tokenizer.add_tokens(mark := "<a mark>")
        tokenizer.chat_template = mark + tokenizer.chat_template
    tokenizer.save_pretrained(aligned)
    job = make_job(f"method={method}", f"model.aligned={aligned}")
    size = model.get_input_embeddings().num_embeddings
    with pytest.raises(ValueError, match=rf"its vocabulary has {size} embeddings, and the .* has the id {size}\."):
        run_cell(job)


def test_a_start_that_is_neither_side_nor_made_of_one_is_refused(make_job: MakeJob) -> None:
    class Elsewhere(SFT):
        def start(self) -> str:  # type: ignore[override]
            return "middle"

    job = make_job("method=sft")
    with pytest.raises(ConfigError, match=r"method=sft: start\(\) gives 'middle'; allowed: base, aligned"):
        cross_checks(dataclasses.replace(job.cell, method=Elsewhere()), job.options)


def test_a_device_map_changes_no_result_and_no_key_and_quantised_weights_have_one(
    random_pair: Path, make_job: MakeJob
) -> None:
    plain = load_model(random_pair / "aligned", "float32", CPU)
    spread = load_model(random_pair / "aligned", "float32", CPU, device_map="auto")
    assert torch.equal(plain(IDS).logits, spread(IDS).logits.cpu())
    assert make_job().key == make_job("model.device_map=auto").key
    kinds = [make_job(*more).plan.pair.get("quantization") for more in ((), ("model.quantization=4bit",))]
    assert kinds == [None, "4bit"]


def test_a_full_fine_tune_and_what_it_is_compared_with_are_spread_as_the_pair_is(
    random_pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(random_pair / "base", random_pair / "aligned", "", device_map="auto")
    read = Mock(wraps=read_model)
    monkeypatch.setattr("asft.models.pair.read_model", read)
    model = pair.trained(pair.base, "aligned", CPU)
    model.hf_device_map = {"": "cpu"}  # of a model over several GPUs
    load_like(model, pair.aligned)
    assert [call.kwargs["device_map"] for call in read.call_args_list] == ["auto", {"": "cpu"}]


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quantization=4bit needs the package bitsandbytes: .*asft-lab\[quant\]"):
        require_quantization("4bit")
    require_quantization(None)


@pytest.fixture(scope="module")
def wide_pair(random_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair whose rows are one block of the 4-bit format wide (64), which its CPU kernel needs."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(random_pair / "aligned")
    config = AutoConfig.from_pretrained(random_pair / "aligned")
    config.update({"hidden_size": 64, "intermediate_size": 64, "head_dim": 32})
    torch.manual_seed(0)
    for side in ("base", "aligned"):
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_cell_runs_on_quantised_weights(make_job: MakeJob, wide_pair: Path, quantization: str) -> None:
    sides = [f"model.{side}={wide_pair / side}" for side in ("base", "aligned")]
    entry = run_cell(make_job("method=asft", *sides, f"model.quantization={quantization}"))
    assert entry.result["stages"]["train"]["result"]["asft/modules"] == 4
    assert entry.result["metrics"]["HS"]["total"] == 10


def test_the_package_s_pair_is_that_of_the_default_settings_and_is_copied_unless_it_is_to_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asft.models.organism.build.build_pair", Mock(side_effect=NotImplementedError))
    job, other = (
        enumerate_cells([f"model.seed={seed}", f"outputs={tmp_path}"], sweep=False).cells[0] for seed in (0, 1)
    )
    with pytest.raises(NotImplementedError):
        prepare_pair(job, build=True)
    with pytest.raises(NotImplementedError):
        prepare_pair(other)
    pair = prepare_pair(job)
    entry = job.store.find("pairs", pair.key, whole=True)
    assert entry is not None
    assert [folder.name for folder in PUBLISHED.iterdir()] == [pair.key]
    assert entry.result["recipe"] == dataclasses.asdict(BuildRecipe())
    assert pair.load("base", CPU).num_parameters() == entry.result["parameters"]
    assert {file.name for file in pair.base.iterdir()} == {file.name for file in pair.aligned.iterdir()}


def test_threads_are_one_for_a_small_model_the_machine_s_for_another_and_what_the_environment_says_before_both(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("asft.models.pair._USUAL", 4)
    before = torch.get_num_threads()
    try:
        prepare_pair(make_job())
        assert torch.get_num_threads() == 1
        monkeypatch.setattr("asft.models.pair.SMALL", 1000)
        prepare_pair(make_job())
        assert torch.get_num_threads() == 4
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        prepare_pair(make_job())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (
            403,
            "GatedRepo",
            "Cannot access gated repo .* accept its licence at https://huggingface.co/nobody/model and log",
        ),
        (401, "RepoNotFound", "Repository Not Found .* If it is gated, accept .* `hf auth login`"),
        (404, "RevisionNotFound", "Revision Not Found for url: [^ ]*$"),
    ],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, told: str
) -> None:
    import httpx2
    from huggingface_hub.utils import hf_raise_for_status

    def refuse(*_: object, **__: object) -> None:
        request = httpx2.Request("GET", "https://huggingface.co/api/models/nobody/model/revision/main")
        headers = {"X-Error-Code": code, "X-Request-Id": "1"}
        hf_raise_for_status(httpx2.Response(status, request=request, headers=headers))

    monkeypatch.setattr("asft.models.checkpoints._answers", lambda *_: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ValueError, match=rf"\Amodel\.base=nobody/model [^\n]*: {told}") as refused:
        fetch_checkpoint("nobody/model", "main", "model.base")
    assert "\n" not in str(refused.value)


def test_without_a_network_the_hub_is_given_up_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", Mock(side_effect=ConnectionError("no network")))
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"model\.base=nobody/model .*out of reach, and the cache lacks it"):
        fetch_checkpoint("nobody/model", "main", "model.base")
    assert time.monotonic() - began < 5
    assert not caplog.records
