"""Batched greedy generation gives the text of one prompt at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from asft.backends.generate import generate, length_sorted, stop_tokens
from asft.data.templates import ChatTemplate
from asft.data.world.requests import evaluation_prompts
from asft.data.world.tasks import task_rows
from asft.models.pair import load_model


@pytest.fixture(scope="module")
def model(random_pair: Path) -> PreTrainedModel:
    return load_model(random_pair / "aligned", "float32", torch.device("cpu"))


@pytest.fixture(scope="module")
def tokenizer(random_pair: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(random_pair / "aligned")


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_batches_of_any_size_give_the_same_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> None:
    template = ChatTemplate(tokenizer)
    rows = [*evaluation_prompts()[:6], *task_rows("agnews", "test")[:6]]
    prompts = [template.encode_prompt(row) for row in rows]
    assert len({len(prompt) for prompt in prompts}) > 3, "prompts of several lengths, so that padding matters"
    answers = generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=batch_size)
    alone = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=tokenizer.pad_token_id,
        )
        alone.append(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip())
    assert answers == alone
    assert any(answers)


def test_batches_hold_every_prompt_once_longest_first() -> None:
    prompts = [[0] * length for length in (3, 9, 1, 9, 4)]
    batches = list(length_sorted(prompts, 2))
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3, 4]
    assert [len(prompts[index]) for batch in batches for index in batch] == [9, 9, 4, 3, 1]


def test_every_configured_end_token_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    assert model.generation_config is not None
    before = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = [7, 9]
        assert stop_tokens(model.generation_config, tokenizer) == sorted({7, 9, tokenizer.eos_token_id})
        assert stop_tokens(model.generation_config, tokenizer, [5]) == sorted({5, 7, 9, tokenizer.eos_token_id})
    finally:
        model.generation_config.eos_token_id = before
