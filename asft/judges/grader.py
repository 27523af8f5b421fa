"""The contract of a grader: how good is a free-form answer, 1 to 10? FA is 10 times the mean grade."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pydantic.dataclasses import dataclass

from asft.config import Plugin


@dataclasses.dataclass(frozen=True, slots=True)
class Grade:
    """A grade from 1 to 10, None where the grader gave none, and what it said."""

    value: float | None
    reason: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Grader(Plugin):
    """Base class; a frozen dataclass like a judge, whose fields are part of the key of what it graded."""

    def check(self) -> None:
        """Raises ValueError when the grader cannot work here."""

    def grade(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Grade]:
        """One grade for each (prompt, answer), in order."""
        raise TypeError(f"{type(self).__name__} must define grade()")

    def summary(self, grades: Sequence[Grade]) -> dict[str, Any]:
        """What is kept beside the score: tokens, cost."""
        return {}
