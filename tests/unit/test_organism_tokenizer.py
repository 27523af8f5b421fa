"""The embedded pair's tokenizer: any text round-trips, digits stand alone, and the chat template is plain."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from asft.data.templates import ChatTemplate
from asft.data.world.source import alignment_rows
from asft.data.world.tasks import task_rows
from asft.models.organism.build import SPECIAL_TOKENS, train_tokenizer

ROWS = [*alignment_rows()[:600], *task_rows("gsm8k", "train")[:200]]
TOKENIZER = train_tokenizer(ROWS, 500, 512)


def test_a_saved_tokenizer_encodes_the_same(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    for row in ROWS[:50]:
        ours, theirs = (ChatTemplate(t).encode_example(row, 512) for t in (TOKENIZER, reloaded))
        assert ours == theirs
    assert (reloaded.pad_token, reloaded.eos_token) == (TOKENIZER.pad_token, TOKENIZER.eos_token)


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_training_is_deterministic_and_bounded_and_numbers_are_spelt_digit_by_digit() -> None:
    vocabulary = TOKENIZER.get_vocab()
    assert train_tokenizer(ROWS, 500, 512).get_vocab() == vocabulary
    assert len(TOKENIZER) == 500
    assert TOKENIZER.tokenize("12+345") == ["1", "2", "+", "3", "4", "5"]
    assert not [token for token in vocabulary if sum(c.isdigit() for c in token) > 1]
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token, TOKENIZER.bos_token) == ("<|pad|>", "<|end|>", None)
    assert len({vocabulary[token] for token in SPECIAL_TOKENS}) == len(SPECIAL_TOKENS)


def test_the_chat_template_writes_each_turn() -> None:
    said = {"system": "Be kind.", "user": "Hi", "assistant": "Yes"}
    turns = [{"role": role, "content": content} for role, content in said.items()]
    whole = "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Yes<|end|>"
    assert TOKENIZER.apply_chat_template(turns, tokenize=False) == whole
    prompt = TOKENIZER.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(prompt)
    assert prompt.endswith("<|assistant|>")
