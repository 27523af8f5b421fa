"""The embedded pair's tokenizer: any text round-trips, digits stand alone, and the chat template is plain."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from asft.data.rows import Row
from asft.data.templates import IGNORED, ChatTemplate
from asft.data.world.source import alignment_rows
from asft.data.world.tasks import task_rows
from asft.models.organism.build import SPECIAL_TOKENS, train_tokenizer

ROWS = [*alignment_rows()[:600], *task_rows("gsm8k", "train")[:200]]
TOKENIZER = train_tokenizer(ROWS, 500, 512)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_training_is_deterministic_and_bounded() -> None:
    again = train_tokenizer(ROWS, 500, 512)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    assert len(TOKENIZER) == 500
    assert set(SPECIAL_TOKENS) <= set(TOKENIZER.get_vocab())


def test_numbers_are_spelt_digit_by_digit() -> None:
    assert TOKENIZER.tokenize("12+345") == ["1", "2", "+", "3", "4", "5"]
    assert not [token for token in TOKENIZER.get_vocab() if sum(c.isdigit() for c in token) > 1]


def test_pad_and_end_are_tokens_of_their_own() -> None:
    assert TOKENIZER.pad_token == "<|pad|>"
    assert TOKENIZER.eos_token == "<|end|>"
    assert TOKENIZER.bos_token is None
    assert len(set(TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)))) == len(SPECIAL_TOKENS)


def test_the_chat_template_writes_each_turn() -> None:
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
    ]
    whole = "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Yes<|end|>"
    assert TOKENIZER.apply_chat_template(turns, tokenize=False) == whole
    prompt = TOKENIZER.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(prompt)
    assert prompt.endswith("<|assistant|>")


def test_a_saved_tokenizer_encodes_the_same(reloaded: PreTrainedTokenizerBase) -> None:
    for row in ROWS[:50]:
        ours, theirs = (ChatTemplate(t).encode_example(row, 512) for t in (TOKENIZER, reloaded))
        assert ours == theirs
    assert (reloaded.pad_token, reloaded.eos_token) == (TOKENIZER.pad_token, TOKENIZER.eos_token)


def test_an_example_learns_its_answer_and_the_end_of_turn() -> None:
    row = Row("a", "What is 2 + 2?", "2 + 2 = 4")
    encoded = ChatTemplate(TOKENIZER).encode_example(row, 512)
    learned = [i for i, label in zip(encoded.input_ids, encoded.labels, strict=True) if label != IGNORED]
    assert TOKENIZER.decode(learned) == "2 + 2 = 4<|end|>"
