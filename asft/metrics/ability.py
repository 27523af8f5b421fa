"""Ability: how many general questions a model still answers, by the likelihood of their options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import Settings, joined
from asft.data.base import Data, source_of
from asft.data.rows import Row, evenly
from asft.metrics.base import Answer, Metric, Scored
from asft.store.partial import PartialRows


@dataclass(frozen=True)
class Ability(Metric):
    """The share of questions whose right option is the likeliest.

    Bare questions, such as ARC-Easy's, are asked without a method's system prompt: what that does is not measured.

    Attributes:
        n: questions, at even distances among those that the data source has.
    """

    name: ClassVar[str] = "ability"
    label: ClassVar[str] = "general questions answered rightly"
    about: ClassVar[str] = "the share of general questions whose right option is the likeliest to the model."
    chooses: ClassVar[bool] = True
    n: Annotated[int, Field(ge=1)]

    def rows(self, data: Data) -> list[Row]:
        return evenly(data.unlearned(data.source.choices()), self.n)

    def asked(self, settings: Settings) -> dict[str, Any]:
        return joined(source_of(settings).probe_identity("choices"), probe="choices", n=self.n)

    def max_new_tokens(self, settings: Settings) -> int:
        """None: no answer is generated."""
        return 0

    def score(self, settings: Settings, answers: Sequence[Answer], kept: PartialRows) -> Scored:
        return Scored([float(row["answer"] == row["gold"]) for row in answers], [{}] * len(answers))
