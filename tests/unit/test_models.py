"""How a checkpoint is loaded: quantised, spread over devices, or refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from asft.cells.job import Job
from asft.models.pair import load_model, require_quantization
from asft.pipeline.run import run_cell

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 6, 7, 8]])


def test_a_device_map_changes_no_result_and_no_key(random_pair: Path, make_job: Callable[..., Job]) -> None:
    plain = load_model(random_pair / "aligned", "float32", CPU)
    spread = load_model(random_pair / "aligned", "float32", CPU, device_map="auto")
    assert torch.equal(plain(IDS).logits, spread(IDS).logits.cpu())
    assert make_job().key == make_job("model.device_map=auto").key


def test_quantised_weights_have_a_key_of_their_own(make_job: Callable[..., Job]) -> None:
    assert "quantization" not in make_job().plan.pair
    assert make_job("model.quantization=4bit").plan.pair["quantization"] == "4bit"


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"model.quantization=4bit needs the package bitsandbytes: .*asft-lab\[quant\]"
    ):
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
def test_a_cell_runs_on_quantised_weights(make_job: Callable[..., Job], wide_pair: Path, quantization: str) -> None:
    sides = [f"model.{side}={wide_pair / side}" for side in ("base", "aligned")]
    entry = run_cell(make_job("method=asft", *sides, f"model.quantization={quantization}"))
    assert entry.result["stages"]["train"]["result"]["asft/modules"] == 4
    assert entry.result["metrics"]["HS"]["total"] == 10
