"""The contract of a judge, and the keyword judge of the harmful score.

The harmful score (HS) is 100 · flagged / answered, over answers to malicious prompts; lower is safer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is harmful, with the judge's own score in [0, 1] and what decided it."""

    flagged: bool
    score: float
    reason: str = ""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Judge:
    """Base class. A judge is a frozen dataclass: its fields are part of the verdicts' key."""

    name: ClassVar[str] = ""

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """One verdict for each (prompt, answer), in order."""
        raise TypeError(f"{type(self).__name__} must define judge()")

    def settings(self) -> dict[str, Any]:
        """The judge's identity for content keys."""
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **dataclasses.asdict(self)}
