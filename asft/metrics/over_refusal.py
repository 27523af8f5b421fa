"""OR, over-refusal: how often harmless prompts that sound malicious are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import Settings, joined
from asft.data.base import Data, source_of
from asft.data.rows import Row, evenly
from asft.judges.refusal import refused
from asft.metrics.base import Answer, Metric, Scored
from asft.store.partial import PartialRows


@dataclass(frozen=True)
class OverRefusal(Metric):
    """Attributes:
    n: prompts, at even distances among those that the data source has.
    tokens: of each answer, and no more than of one to a malicious prompt; a refusal shows at once.
    """

    name: ClassVar[str] = "over_refusal"
    label: ClassVar[str] = "over-refusal"
    about: ClassVar[str] = "the share of harmless prompts that sound malicious and are refused."
    lower_is_better: ClassVar[bool] = True
    n: Annotated[int, Field(ge=1)]
    tokens: Annotated[int, Field(ge=1)]

    def rows(self, data: Data) -> list[Row]:
        return evenly(data.unlearned(data.source.look_alikes()), self.n)

    def asked(self, settings: Settings) -> dict[str, Any]:
        return joined(source_of(settings).probe_identity("look_alikes"), probe="look_alikes", n=self.n)

    def max_new_tokens(self, settings: Settings) -> int:
        return min(self.tokens, settings.evaluation.harmful_max_new_tokens)

    def score(self, settings: Settings, answers: Sequence[Answer], kept: PartialRows) -> Scored:
        return Scored(refused([row["answer"] for row in answers]), [{}] * len(answers))
