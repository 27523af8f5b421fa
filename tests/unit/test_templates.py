"""From rows to token ids: the mask, the boundary, the cut, and the end-of-turn token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from asft.data.rows import Row
from asft.data.templates import IGNORED, ChatTemplate, user_text

ROW = Row(id="r", instruction="Count 2 + 8.", output="2 + 8 = 10", input="now")


@pytest.fixture(scope="module")
def tokenizer(random_pair: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(random_pair / "aligned")


def test_the_loss_covers_the_answer_and_its_end_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer)
    encoded = template.encode_example(ROW, 512)
    learned = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(learned) == f"{ROW.output}{tokenizer.eos_token}"
    assert encoded.labels[-len(learned) :] == learned == encoded.input_ids[-len(learned) :]


def test_training_and_scoring_share_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer)
    prompt = template.encode_prompt(ROW)
    encoded = template.encode_example(ROW, 512)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert user_text(ROW) in template.prompt(ROW)


def test_a_system_text_reaches_prompt_and_example_alike(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer)
    row = replace(ROW, system="Be brief.")
    prompt = template.encode_prompt(row)
    assert "Be brief." in template.prompt(row)
    assert prompt != template.encode_prompt(ROW)
    assert template.encode_example(row, 512).input_ids[: len(prompt)] == prompt


def test_long_rows_lose_their_tail(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer)
    whole, prompt = template.encode_example(ROW, 512), template.encode_prompt(ROW)
    cut = template.encode_example(ROW, len(prompt) + 2)
    assert cut.input_ids == whole.input_ids[: len(prompt) + 2]
    assert len(cut.labels) == len(cut.input_ids)


def test_a_prompt_that_fills_the_length_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer)
    length = len(template.encode_prompt(ROW))
    with pytest.raises(ValueError, match=f"Row r: its prompt has {length} tokens.* training.max_length={length}"):
        template.encode_example(ROW, length)


def test_a_tokenizer_without_a_chat_template_is_refused(tokenizer: PreTrainedTokenizerBase, random_pair: Path) -> None:
    bare = AutoTokenizer.from_pretrained(random_pair / "aligned")
    bare.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        ChatTemplate(bare)
