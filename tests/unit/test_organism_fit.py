"""The training loop of the embedded pair: its schedule, its batches, and that padding changes nothing."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from asft.config import OrganismModel
from asft.data.loading import Collator
from asft.data.templates import IGNORED, Encoded
from asft.data.world.tasks import task_rows
from asft.models.organism.build import ARCHITECTURES, _batches, fit, fresh_model, train_tokenizer
from asft.models.organism.recipe import FitRecipe
from asft.planning.size import target_modules

TINY = LlamaConfig(
    vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
)


def example(length: int) -> Encoded:
    ids = [1 + i % 19 for i in range(length)]
    return Encoded(ids, [IGNORED, *ids[1:]])


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe = FitRecipe(steps=100, learning_rate=1.0, warmup=10)
    rates = [recipe.learning_rate_at(step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_a_pass_of_batches_holds_rows_once_and_of_like_length() -> None:
    rows = [example(2 + i % 30) for i in range(320)]
    batches = _batches(rows, 8, Random(0))
    first_pass = [next(batches) for _ in range(40)]
    assert sorted(id(row) for batch in first_pass for row in batch) == sorted(id(row) for row in rows)
    spread = [max(len(r.input_ids) for r in b) - min(len(r.input_ids) for r in b) for b in first_pass]
    assert sum(spread) / len(spread) < 4


def test_the_loss_of_a_padded_batch_is_the_mean_over_its_labelled_tokens() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(TINY).double().eval()
    rows = [example(4), example(9)]
    with torch.no_grad():
        padded = Collator(0)(rows)
        batched = model(input_ids=padded["input_ids"], labels=padded["labels"]).loss
        means = [model(input_ids=torch.tensor([r.input_ids]), labels=torch.tensor([r.labels])).loss for r in rows]
    expected = (3 * means[0] + 8 * means[1]) / 11
    assert batched.item() == pytest.approx(expected.item(), rel=1e-6)  # the loss itself is in single precision


def test_fit_learns_and_reports_every_step() -> None:
    torch.manual_seed(0)
    model, seen = LlamaForCausalLM(TINY), []
    rows = [example(2 + i % 7) for i in range(64)]
    recipe = FitRecipe(steps=60, learning_rate=1e-2, warmup=5, batch_size=8)
    losses = fit(model, rows, recipe, rng=Random(0), pad_id=0, report=lambda step, loss: seen.append(step))
    assert seen == list(range(1, 61))
    assert losses[-1] < 0.3 * losses[0]
    assert not model.training


def test_each_architecture_has_what_it_is_there_for() -> None:
    tokenizer = train_tokenizer(task_rows("agnews", "train")[:200], 400, 512)
    models = {name: fresh_model(name, tokenizer) for name in ARCHITECTURES}
    shapes = {
        name: {key: tuple(weight.shape) for key, weight in model.named_parameters()} for name, model in models.items()
    }
    v_proj = "model.layers.0.self_attn.v_proj"
    assert shapes["llama"][f"{v_proj}.weight"] == (128, 128)
    assert all(shapes[name][f"{v_proj}.weight"] == (64, 128) for name in ("llama_gqa", "qwen2", "gemma2"))
    assert [name for name in shapes if f"{v_proj}.bias" in shapes[name]] == ["qwen2"]
    assert models["gemma2"].config.final_logit_softcapping
    recipe = dict.fromkeys(("lora_lr", "full_lr", "epochs"), 1)
    for name, model in models.items():
        of_name = OrganismModel("organism", "tiny", name, recipe)  # type: ignore[arg-type]
        linear = {key: part.weight.shape for key, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        del linear["lm_head"]  # as long as the tokenizer is
        assert target_modules(of_name, {key.rpartition(".")[2] for key in linear}) == linear
    with pytest.raises(ValueError, match="architecture='gpt' is unknown; choose one of: llama, llama_gqa, qwen2"):
        fresh_model("gpt", tokenizer)
