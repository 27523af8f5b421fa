"""Batched greedy generation gives the text of one prompt at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from asft.backends.generate import generate, length_sorted, stop_tokens, texts_of
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


@pytest.mark.parametrize("ends_at", [0, 3])
@pytest.mark.parametrize("nan_at", [0, 2, 5])
def test_nan_logits_are_told_of_an_answer_that_goes_on_alone(
    ends_at: int, nan_at: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Row 0 ends at a step and has NaN logits from another on; row 1 has none. Token 0, which NaN makes, is padding."""
    assert tokenizer.pad_token_id is not None
    step = 0

    def spoil(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal step
        logits[0, -1, tokenizer.eos_token_id if step == ends_at else 20] = 1e4
        logits[1, -1, 20] = 1e4
        if step >= nan_at:
            logits[0, -1, 7] = torch.nan
        step += 1
        return logits

    prompts = [[20, 21, tokenizer.eos_token_id], [23, 24]]
    handle = model.get_output_embeddings().register_forward_hook(spoil)
    try:
        if nan_at > ends_at:
            assert generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=2)
        else:
            with pytest.raises(ValueError, match=r"no numbers in torch\.float32; answer in another number format"):
                generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=2)
    finally:
        handle.remove()


def test_an_answer_stops_before_its_first_end_token_special_or_not(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompt, words = [20, 21, 22], [token for token in range(20, 40) if tokenizer.decode([token]).strip()]
    assert not {*words} & {*tokenizer.all_special_ids}
    one, end, other = words[:3]
    assert texts_of(tokenizer, [[one, end, other, end], [one]], [end]) == [tokenizer.decode([one]).strip()] * 2
    first = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=1)[0, -1].item()
    assert first not in tokenizer.all_special_ids
    assert generate(model, tokenizer, [prompt], max_new_tokens=4, batch_size=1, ends=[first]) == [""]
