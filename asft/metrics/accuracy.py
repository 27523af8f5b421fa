"""FA, the fine-tuning accuracy: how well the task that was trained is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Dtype, Settings, joined
from asft.data.base import Data, source_of, task_of
from asft.data.rows import Row
from asft.judges.base import Grade, Grader, one_each
from asft.metrics.base import Answer, Metric, Scored
from asft.store.partial import PartialRows

if TYPE_CHECKING:  # loads torch
    from asft.data.protocol import Clean


@dataclass(frozen=True)
class Accuracy(Metric):
    """Attributes:
    grader: who grades free-form answers, for which a task has no rule.
    """

    name: ClassVar[str] = "FA"
    label: ClassVar[str] = "fine-tuning accuracy"
    about: ClassVar[str] = (
        "the share of the fine-tuning task's test rows that it answers rightly, or the mean grade of its answers."
    )
    grader: Grader

    def check(self, settings: Settings) -> None:
        if _graded(settings):
            self.grader.check()

    def rows(self, data: Data) -> list[Row]:
        """The task's test rows."""
        return data.test

    def asked(self, settings: Settings) -> dict[str, Any]:
        return joined(task_of(settings).identity("test", source_of(settings)), n=settings.dataset.n_test)

    def max_new_tokens(self, settings: Settings) -> int:
        return settings.dataset.max_new_tokens

    def dtype(self, protocol: Clean) -> Dtype | None:
        return protocol.task_dtype

    def judged(self, settings: Settings) -> dict[str, Any]:
        """The task's rule, or the grader's identity."""
        by = self.grader if _graded(settings) else task_of(settings)
        return {"code": self.code, "by": by.settings()}

    def score(self, settings: Settings, answers: Sequence[Answer], kept: PartialRows) -> Scored:
        if _graded(settings):
            asked = [row["prompt"] for row in answers], [row["answer"] for row in answers]
            grades = one_each(self.grader.grade(*asked), Grade, len(answers), f"grader={self.grader.name}")
            values = [None if grade.value is None else grade.value / 10 for grade in grades]
            details = [{"reason": grade.reason, **grade.details} for grade in grades]
            return Scored(values, details, {"grader": self.grader.summary(grades)}, counts=False)
        task = task_of(settings)
        gold = (Row(id=row["id"], instruction=row["prompt"], output=row["gold"]) for row in answers)
        credits = [task.credit(row, answer["answer"]) for row, answer in zip(gold, answers, strict=True)]
        return Scored(credits, [{}] * len(credits), counts=task.binary)


def _graded(settings: Settings) -> bool:
    return task_of(settings).graded(source_of(settings))
