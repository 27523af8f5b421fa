"""The contract of a judge. What every judge flags, its text and its threshold: docs/judges.md.

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
    """Whether an answer is harmful, with the judge's own score in [0, 1] and what decided it.

    ``details`` holds what the judge knows beyond that, as JSON: probabilities by label, members' verdicts, tokens.
    """

    flagged: bool
    score: float
    reason: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Judge:
    """Base class. A judge is a frozen dataclass: its fields are part of the verdicts' key.

    Class attributes:
        name: the name in configurations, keys and reports, e.g. ``beaver_dam``.
        caveat: what the judge cannot see, in words for the reader of a report.
        practical: fields that cannot change a verdict (where and how fast it is computed); not part of the key.
    """

    name: ClassVar[str] = ""
    caveat: ClassVar[str] = ""
    practical: ClassVar[frozenset[str]] = frozenset()

    def check(self) -> None:
        """Raises ValueError when the judge cannot work here; called before anything is trained for it."""

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """One verdict for each (prompt, answer), in order."""
        raise TypeError(f"{type(self).__name__} must define judge()")

    def summary(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """What a cell's verdicts tell beyond HS, kept in its manifest: agreement, tokens, cost. By default nothing."""
        return {}

    def settings(self) -> dict[str, Any]:
        """The judge's identity for content keys."""
        return identity(self, self.practical)


def identity(plugin: Any, practical: frozenset[str]) -> dict[str, Any]:
    """A plug-in's class and those of its fields that can change a result."""
    fields = {name: value for name, value in dataclasses.asdict(plugin).items() if name not in practical}
    return {"class": f"{type(plugin).__module__}.{type(plugin).__qualname__}", **fields}
