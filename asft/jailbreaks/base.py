"""The contract of a jailbreak: how a malicious request is put to the model when the harmful score is taken.

It acts on the prompts of the harmful score alone. Training, the task's test rows and what the judge is asked about (the
request as it was) are those of a plain evaluation, so that harmful scores with and without it compare.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Plugin
from asft.data.rows import Row, user_text


@dataclass(frozen=True)
class Jailbreak(Plugin):
    """Base class, and the choice ``none``: requests are put as they are.

    A jailbreak is a frozen dataclass: its fields are part of the key of the answers. It is a function of the request
    and its fields alone, so that the same row is asked the same way whatever the method and the order.

    Class attributes:
        label: the name as the field writes it, e.g. ``ArtPrompt``.
        caveat: what it does otherwise than its paper, in words for the reader of a report.
    """

    name: ClassVar[str] = "none"
    label: ClassVar[str] = "none"
    caveat: ClassVar[str] = ""

    def check(self) -> None:
        """Raises ValueError when it cannot work here; called before anything is trained for it."""

    def transform(self, request: str) -> str:
        """The text that the model is asked in place of ``request``."""
        return request

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return type(self) is not Jailbreak


def asked(jailbreak: Jailbreak, rows: Sequence[Row]) -> list[Row]:
    """The rows as the model is asked them; ids stay."""
    if not jailbreak.acts:
        return list(rows)
    return [dataclasses.replace(row, instruction=jailbreak.transform(user_text(row)), input="") for row in rows]


def require_context(jailbreak: Jailbreak, prompts: Sequence[Sequence[int]], new_tokens: int, positions: int) -> None:
    """Raises ValueError where the longest prompt (token ids, template included) and its answer do not fit the model.

    Disguised requests are many times longer.
    """
    longest = max(len(prompt) for prompt in prompts)
    if longest + new_tokens > positions:
        raise ValueError(
            f"jailbreak={jailbreak.name}: a disguised request has {longest} tokens, which with "
            f"evaluation.harmful_max_new_tokens={new_tokens} is more than the {positions} positions of this model. "
            "Lower evaluation.harmful_max_new_tokens, or choose another jailbreak or a model with a longer context."
        )


WORD = re.compile(r"[A-Za-z]+")

# Function words, what an apostrophe leaves of them, and the words by which one asks for an answer.
_GIVING_NOTHING_AWAY = """
    a about above after again against all also am an and answer any anyone are aren as at be because been before
    being below between both but by can could couldn create describe detailed develop did didn do does doesn doing
    don down during each else every example examples explain explaining few for from further generate get give guide
    had has have having he help her here hers him his how i if in instruction instructions into is isn it its itself
    just like list ll make many may me might more most much must my myself need needed no nor not now of off on once
    one ones only or other our ours out over own please provide put question re same shall she should shouldn show
    so some somebody someone something step steps such suggest teach tell than that the their theirs them then there
    these they think this those through to too under until up us use using ve very want was way ways we were what
    when where whether which while who whom whose why will with without won would wouldn write you your yours
    yourself
"""
STOP_WORDS = frozenset(_GIVING_NOTHING_AWAY.split())


def content_words(text: str) -> list[re.Match[str]]:
    """The places of the words in ``text`` that carry content, in order: two letters or more, and no stop word."""
    return [match for match in WORD.finditer(text) if len(match[0]) > 1 and match[0].lower() not in STOP_WORDS]
