"""A very short build of the embedded pair: complete checkpoints, deterministic, and the record of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import nightly
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from asft.models.organism.build import ARCHITECTURES, build_pair
from asft.models.organism.recipe import BuildRecipe, FitRecipe

SHORT = BuildRecipe(
    pretraining=FitRecipe(steps=3, learning_rate=2e-3, warmup=1, batch_size=8),
    alignment=FitRecipe(steps=2, learning_rate=2e-3, warmup=1, batch_size=8),
)
pytestmark = pytest.mark.slow
Built = tuple[Path, dict[str, Any], list[tuple[float, str]]]


@pytest.fixture(scope="module", params=[name if name == "llama" else nightly(name) for name in ARCHITECTURES])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A pair's folder, its record and the progress that was told."""
    folder, seen = tmp_path_factory.mktemp("organism"), []
    record = build_pair(request.param, folder, recipe=SHORT, report=lambda done, text: seen.append((done, text)))
    return folder, record, seen


def test_both_sides_load_and_generate(built: Built) -> None:
    folder, record, _ = built
    assert json.loads(json.dumps(record)) == record
    assert set(record["stages"]) == {"base", "aligned"}
    weights = {}
    for side in ("base", "aligned"):
        tokenizer = AutoTokenizer.from_pretrained(folder / side)
        model = AutoModelForCausalLM.from_pretrained(folder / side)
        assert tokenizer.chat_template
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        assert model.generation_config.pad_token_id == tokenizer.pad_token_id
        prompt = tokenizer("<|user|>Hi<|end|><|assistant|>", return_tensors="pt")
        assert model.generate(**prompt, max_new_tokens=3).shape[1] > prompt["input_ids"].shape[1]
        assert model.num_parameters() == record["parameters"] < 1.5e6
        weights[side] = load_file(folder / side / "model.safetensors")
    assert weights["base"].keys() == weights["aligned"].keys()
    assert not torch.equal(*(w["model.layers.0.self_attn.q_proj.weight"] for w in weights.values()))


def test_progress_rises_to_one(built: Built) -> None:
    seen = built[2]
    fractions = [done for done, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert "training aligned, step 2 of 2" in seen[-1][1]


@pytest.mark.nightly
def test_one_seed_gives_one_pair_on_any_number_of_threads_and_another_seed_another(tmp_path: Path) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    for name, seed, threads in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        torch.set_num_threads(threads)
        build_pair("llama", tmp_path / name, seed=seed, recipe=SHORT)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (load_file(tmp_path / name / "aligned" / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_an_unknown_architecture_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="architecture='gpt' is unknown"):
        build_pair("gpt", tmp_path, recipe=SHORT)
    assert torch.get_num_threads() == 2, "a build that fails gives the threads back"
    torch.set_num_threads(1)
    assert not list(tmp_path.iterdir())
