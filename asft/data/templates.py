"""From a row to token ids: the prompt text, the response text, and the loss mask between them.

``protocol=clean`` uses one template for training and evaluation, the chat template of the aligned model; the
texts of ``protocol=official`` are in :mod:`asft.data.official_template`.

Prompt and response are tokenised together. Where a token would merge across their boundary they are tokenised apart
and joined by ids: a model that answers goes on from the prompt's own tokens, and the loss mask cannot shift.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from asft.data.rows import Row

IGNORED = -100  # the label that torch's cross entropy leaves out
TODAY = datetime(2024, 7, 26)  # what a template that writes the date is told, on every day; Llama's own default
_DATE = re.compile(r"""strftime_now\(\s*(["'])((?:(?!\1).)*)\1\s*\)""")
_PROBE = Row("probe", "Qzvx7", "Azvx7", system="Szvx7")  # words that stand in no template


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
    """The clean protocol: the model's own chat template, the same for training and for evaluation.

    What the template does is found by a round trip. A prompt is what stands before the answer in a finished
    conversation, whether or not the template writes it when asked for a prompt: an assistant's header, an empty
    think block. A system text that the template raises on or leaves out leads the user's turn.

    Raises:
        ValueError: when there is no template, or it leaves out the question or the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template, which protocol=clean needs. Name an "
                "aligned (chat) model that has one, save one with its tokenizer, or use protocol=official."
            )
        self.tokenizer = tokenizer
        self._text = _DATE.sub(lambda found: repr(TODAY.strftime(found[2])), str(tokenizer.get_chat_template()))
        if "strftime_now(" in self._text:
            raise ValueError(
                f"{tokenizer.name_or_path}: the chat template calls strftime_now with a computed format, so its date "
                "cannot be pinned and prompts would change from day to day; write the format into chat_template.jinja."
            )
        self.takes_system = self._takes_system()
        asked, (before, answer, after) = self._asked(_PROBE), self._whole(_PROBE).rpartition(_PROBE.output)
        if not answer or _PROBE.instruction not in before or _PROBE.instruction not in asked:
            raise ValueError(
                f"{tokenizer.name_or_path}: the chat template leaves out the user's or the assistant's turn, so there "
                "is nothing to train on; mend chat_template.jinja beside its tokenizer, or use protocol=official."
            )
        alike = before.rstrip() == asked.rstrip()  # a blank before the answer is learned with it
        shared = len(asked) if alike else _shared(asked, before)
        self._surplus, self._lead = asked[shared:], "" if alike else before[shared:]
        self._end = after.rstrip() or str(tokenizer.eos_token or "")

    def prompt(self, row: Row) -> str:
        """The text the model sees before it answers, special tokens included."""
        return self._asked(row).removesuffix(self._surplus) + self._lead

    def response(self, row: Row) -> str:
        """The text the model learns: the answer and the family's end-of-turn token."""
        prompt, whole = self.prompt(row), self._whole(row)
        # An answer with a think block of its own is rewritten by some templates.
        learned = whole[len(prompt) :].rstrip() if whole.startswith(prompt) else row.output
        return learned if learned.endswith(self._end) else learned + self._end

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
        whole = self._ids(self.prompt(row) + self.response(row))
        # Some tokenizers put a blank before every text that they are handed, so before an answer of its own, too.
        response = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._ids(self.response(row))
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

    def _asked(self, row: Row) -> str:
        return self._render(self._turns(row), True)

    def _whole(self, row: Row) -> str:
        return self._render([*self._turns(row), {"role": "assistant", "content": row.output}], False)

    def _render(self, turns: list[dict[str, str]], ask: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                turns, chat_template=self._text, tokenize=False, add_generation_prompt=ask
            )
        )

    def _takes_system(self) -> bool:
        """Whether a system text comes to stand in the prompt; Gemma's template raises on one, others drop it."""
        turns = [{"role": "system", "content": _PROBE.system}, {"role": "user", "content": _PROBE.instruction}]
        try:
            return _PROBE.system in self._render(turns, True)
        except TemplateError:
            return False

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


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))
