"""From a row to token ids: the prompt text, the response text, and the loss mask between them.

``protocol=clean`` uses one template for training and evaluation, the chat template of the aligned model; the
texts of ``protocol=official`` are in :mod:`asft.data.official_template`.

The prompt and the response are tokenised apart and joined by ids, so the loss mask cannot shift when a
token would have merged across the boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from asft.data.rows import Row

IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one training example and its labels, of equal length; prompt labels are ``IGNORED``.

    ``id`` is the row's, for messages.
    """

    input_ids: list[int]
    labels: list[int]
    id: str = ""


class Template(Protocol):
    """What a protocol makes of a row."""

    def encode_prompt(self, row: Row) -> list[int]:
        """Token ids of a query at evaluation."""
        ...

    def encode_example(self, row: Row, max_length: int) -> Encoded:
        """Ids and labels of a training example."""
        ...

    def answer(self, row: Row, generated: str) -> str:
        """The part of the generated text that is scored."""
        ...


class ChatTemplate:
    """The clean protocol: the model's own chat template, the same for training and for evaluation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template, which protocol=clean needs. Name an "
                "aligned (chat) model that has one, save one with its tokenizer, or use protocol=official."
            )
        self.tokenizer = tokenizer
        self.takes_system = _takes_system(tokenizer)

    def prompt(self, row: Row) -> str:
        """The text the model sees before it answers, special tokens included."""
        return str(self.tokenizer.apply_chat_template(self._turns(row), tokenize=False, add_generation_prompt=True))

    def response(self, row: Row) -> str:
        """The text the model learns: the answer and the family's end-of-turn token."""
        prompt = self.prompt(row)
        turns = [*self._turns(row), {"role": "assistant", "content": row.output}]
        whole = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        if not whole.startswith(prompt):  # templates that rewrite the last turn, e.g. reasoning models
            return f"{row.output}{self.tokenizer.eos_token}"
        return whole[len(prompt) :].rstrip()

    def encode_prompt(self, row: Row) -> list[int]:
        """Token ids of :meth:`prompt`; the template itself writes the special tokens."""
        return self._ids(self.prompt(row))

    def encode_example(self, row: Row, max_length: int) -> Encoded:
        """Prompt and response ids, cut on the right to ``max_length`` tokens.

        Raises:
            ValueError: when the prompt alone fills ``max_length``, so that no label would be left and the
                loss would be NaN.
        """
        prompt = self.encode_prompt(row)
        require_room(row, len(prompt), max_length)
        response = self._ids(self.response(row))
        ids = (prompt + response)[:max_length]
        return Encoded(ids, ([IGNORED] * len(prompt) + response)[:max_length], row.id)

    def answer(self, row: Row, generated: str) -> str:
        """All of it."""
        return generated

    def _turns(self, row: Row) -> list[dict[str, str]]:
        if row.system and not self.takes_system:
            return [{"role": "user", "content": f"{row.system}\n\n{user_text(row)}"}]
        user = {"role": "user", "content": user_text(row)}
        return [{"role": "system", "content": row.system}, user] if row.system else [user]

    def _ids(self, text: str) -> list[int]:
        ids: Sequence[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(ids)


def require_room(row: Row, prompt_tokens: int, max_length: int) -> None:
    """Raises ValueError when the prompt alone fills ``max_length``: no label would be left, the loss be NaN."""
    if prompt_tokens >= max_length:
        raise ValueError(
            f"Row {row.id}: its prompt has {prompt_tokens} tokens, which leaves no room for an answer in "
            f"training.max_length={max_length}. Raise training.max_length or drop the row."
        )


def user_text(row: Row) -> str:
    """The user's turn: the instruction, then its input after a blank line."""
    return f"{row.instruction}\n\n{row.input}" if row.input else row.instruction


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template has a system role; Gemma's raises on one, and the text then leads the user's turn."""
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    try:
        tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:
        return False
    return True
