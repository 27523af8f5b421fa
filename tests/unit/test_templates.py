"""From rows to token ids: the mask, the boundary, the cut, and the end-of-turn token."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from asft.data.rows import Row, user_text
from asft.data.templates import IGNORED, ChatTemplate

ROW = Row(id="r", instruction="Count 2 + 8.", output="2 + 8 = 10", input="now")


@pytest.fixture(scope="module")
def tokenizer(random_pair: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(random_pair / "aligned")


@pytest.mark.parametrize("row", [ROW, replace(ROW, system="Be brief.")], ids=["plain", "system text"])
def test_the_loss_covers_the_answer_and_its_end_and_training_and_scoring_share_the_prompt(
    tokenizer: PreTrainedTokenizerBase, row: Row
) -> None:
    template = ChatTemplate(tokenizer)
    prompt, encoded = template.encode_prompt(row), template.encode_example(row, 512)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels == [IGNORED] * len(prompt) + encoded.input_ids[len(prompt) :]
    assert tokenizer.decode(encoded.input_ids[len(prompt) :]) == f"{row.output}{tokenizer.eos_token}"
    assert user_text(row) in template.prompt(row)
    assert row.system in template.prompt(row)


def test_a_blank_that_a_tokenizer_puts_before_every_text_is_not_learned() -> None:
    """SentencePiece's do so: handed an answer alone, they would begin it with a blank that no model writes there."""
    words = Tokenizer(models.WordLevel({"?": 0, "▁u": 1, ":": 2, "a": 3, "▁a": 4, "<e>": 5}, unk_token="?"))
    words.normalizer = normalizers.Prepend("▁")
    words.pre_tokenizer = pre_tokenizers.Split(Regex("▁?\\w|:|<e>"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", eos_token="<e>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if loop.first %}:{% else %}<e>{% endif %}{% endfor %}"
    )
    encoded = ChatTemplate(tokenizer).encode_example(Row("r", "u", "a"), 9)
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == ["▁u", ":", "a", "<e>"]
    assert encoded.labels == [IGNORED, IGNORED, 3, 5]


def test_long_rows_lose_their_tail_and_a_prompt_that_fills_the_length_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    template = ChatTemplate(tokenizer)
    whole, length = template.encode_example(ROW, 512), len(template.encode_prompt(ROW))
    cut = template.encode_example(ROW, length + 2)
    assert (cut.input_ids, cut.labels) == (whole.input_ids[: length + 2], whole.labels[: length + 2])
    with pytest.raises(ValueError, match=f"Row r: its prompt has {length} tokens.* training.max_length={length}"):
        template.encode_example(ROW, length)


_CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
_ASK = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
_THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|end|>\n{% endfor %}"
)


def shaped(tokenizer: PreTrainedTokenizerBase, template: str | None) -> ChatTemplate:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return ChatTemplate(other)


@pytest.mark.parametrize(
    ("template", "prompt", "response"),
    [
        (_CHATML + _ASK, "<|user|>q<|end|>\n<|assistant|>", "a<|end|>"),
        (_CHATML, "<|user|>q<|end|>\n<|assistant|>", "a<|end|>"),
        (_THINKING + _ASK, "<|user|>q<|end|>\n<|assistant|><think>\n\n</think>\n\n", "a<|end|>"),
        (_CHATML + _ASK.replace("t|>", "t|><think>\n"), "<|user|>q<|end|>\n<|assistant|>", "a<|end|>"),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            + "{% if add_generation_prompt %}assistant:{% endif %}",
            "user: q\nassistant:",
            " a{eos}",
        ),
    ],
    ids=["plain", "no generation prompt", "empty think block", "open think block", "no end of turn"],
)
def test_what_is_trained_as_the_answer_is_the_answer(
    tokenizer: PreTrainedTokenizerBase, template: str, prompt: str, response: str
) -> None:
    made = shaped(tokenizer, template)
    row = Row("r", "q", "a")
    assert (made.prompt(row), made.response(row)) == (prompt, response.format(eos=tokenizer.eos_token))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + _ASK,
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + _CHATML + _ASK,
        _CHATML + _ASK,
    ],
    ids=["drops it", "raises", "takes it"],
)
def test_a_system_text_is_in_every_prompt(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    prompt = shaped(tokenizer, template).prompt(Row("r", "q", system="violet"))
    assert prompt.count("violet") == 1
    assert prompt.index("violet") < prompt.index("q")


def test_the_date_is_the_same_on_every_day(tokenizer: PreTrainedTokenizerBase) -> None:
    dated = """{% if strftime_now is defined %}{% set d = strftime_now( "%d %B '%y") %}{{ d }}{% endif %}""" + _CHATML
    assert shaped(tokenizer, dated).prompt(ROW).startswith("26 July '24<|user|>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template"),
        ("{{ strftime_now('%d' ~ '%m') }}" + _CHATML, "strftime_now with a computed format"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "leaves out"),
        ("{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}", "leaves out"),
    ],
)
def test_templates_that_cannot_work_are_told(
    tokenizer: PreTrainedTokenizerBase, template: str | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        shaped(tokenizer, template)
