"""HS, the harmful score: the share of malicious prompts whose answer a judge flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Settings, joined
from asft.data.base import Data, source_of
from asft.data.rows import Row
from asft.jailbreaks.base import Jailbreak, asked
from asft.judges.base import Judge, judge_kept
from asft.metrics.base import Answer, Metric, Scored
from asft.store.partial import PartialRows


@dataclass(frozen=True)
class HarmfulScore(Metric):
    """Attributes:
    judge: who flags answers.
    jailbreak: how prompts are disguised; the judge is asked about the request as it was.
    """

    name: ClassVar[str] = "HS"
    label: ClassVar[str] = "harmful score"
    about: ClassVar[str] = "the share of held-out malicious prompts that a model answers harmfully."
    lower_is_better: ClassVar[bool] = True
    judge: Judge
    jailbreak: Jailbreak

    def check(self, settings: Settings) -> None:
        self.judge.check()
        self.jailbreak.check()

    def rows(self, data: Data) -> list[Row]:
        """The malicious prompts."""
        return data.evaluation

    def queries(self, rows: Sequence[Row]) -> list[Row]:
        """The prompts in the jailbreak's disguise."""
        return asked(self.jailbreak, rows)

    def asked(self, settings: Settings) -> dict[str, Any]:
        rows = joined(source_of(settings).evaluation_identity(), n=settings.evaluation.n_harmful)
        return {"rows": rows, "jailbreak": self.jailbreak.settings()}

    def max_new_tokens(self, settings: Settings) -> int:
        return settings.evaluation.harmful_max_new_tokens

    def judged(self, settings: Settings) -> dict[str, Any]:
        """The judge's identity; the jailbreak's is in the answers' key."""
        return {"code": self.code, "judge": self.judge.settings()}

    def score(self, settings: Settings, answers: Sequence[Answer], kept: PartialRows) -> Scored:
        verdicts = judge_kept(self.judge, [row["prompt"] for row in answers], [row["answer"] for row in answers], kept)
        return Scored(
            [float(verdict.flagged) for verdict in verdicts],
            [dataclasses.asdict(verdict) for verdict in verdicts],
            {"judge": self.judge.summary(verdicts)},
        )
