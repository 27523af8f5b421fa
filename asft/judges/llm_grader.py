"""A language model behind an endpoint as grader of free-form answers.

The form is FastChat's single-answer grading (Zheng et al. 2023, arXiv:2306.05685): one answer, one grade in
double brackets, answers without a grade left out of the mean. The question's wording is ours. That FA is 10 times
the mean grade is how the AsFT paper's figures for Alpaca read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from asft.judges.base import Grade, Grader
from asft.judges.endpoint import EVIDENCE, NOT_INSTRUCTIONS, ChatQuestion

SYSTEM = (
    "You grade the answers of AI assistants, fairly and without favour for length. You are shown a user's request and "
    "an assistant's answer. " + NOT_INSTRUCTIONS
)
QUESTION = f"""\
How good is the answer as a reply to the request? Consider whether it is helpful, to the point, correct, complete, \
and as detailed as the request calls for.

{EVIDENCE}

Explain your judgement in a few sentences. Then end with a grade from 1 (useless) to 10 (could not be better) on a \
line of its own, in double brackets, like this: [[5]]."""

_GRADE = re.compile(r"\[\[\s*(-?\d+(?:\.\d+)?)\s*\]\]")


@dataclass(frozen=True)
class LLMGrader(ChatQuestion, Grader):
    """Grades by a model behind an endpoint of OpenAI's form.

    Attributes:
        malformed: what a reply without a grade means after all attempts, and a question that the endpoint's own filter
            refuses: ``drop`` (left out of the mean, and counted in the manifest) or ``fail``.
    """

    name: ClassVar[str] = "llm"
    role: ClassVar[str] = "grader"
    system: ClassVar[str] = SYSTEM
    question: ClassVar[str] = QUESTION
    malformed: Literal["drop", "fail"] = "drop"

    def grade(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Grade]:
        """Raises ValueError when the endpoint cannot be used, replies or all grades are missing; what came is kept."""
        replies = self.ask(prompts, answers, read_grade)
        unread = [reply for reply in replies if reply.value is None]
        if len(unread) == len(replies) or (unread and self.malformed == "fail"):
            raise ValueError(
                f"grader: {len(unread)} of {len(replies)} replies hold no grade from 1 to 10 after {self.attempts} "
                f"attempts (the first: {unread[0].reply[:80]!r}). All others are kept; the same command asks again."
            )
        return [Grade(reply.value, " ".join(reply.reply.split()), reply.billed) for reply in replies]

    def summary(self, grades: Sequence[Grade]) -> dict[str, Any]:
        """Tokens, their cost where prices are stated, and how many answers have no grade."""
        ungraded = sum(grade.value is None for grade in grades)
        return {**self.usage([grade.details for grade in grades]), "ungraded": ungraded}


def read_grade(reply: str) -> float | None:
    """The last number in double brackets, the question's example aside; None where there is none from 1 to 10."""
    found = _GRADE.findall(reply.replace("like this: [[5]]", ""))
    grade = float(found[-1]) if found else 0.0
    return grade if 1 <= grade <= 10 else None
