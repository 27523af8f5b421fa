"""The contract of a judge. What every judge flags, its text and its threshold: docs/judges.md.

The harmful score (HS) is 100 · flagged / answered, over answers to malicious prompts; lower is safer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic.dataclasses import dataclass

from asft.config import Plugin
from asft.store.heartbeat import tell
from asft.store.partial import PartialRows

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is harmful, with the judge's own score in [0, 1] and what decided it.

    ``details`` holds what the judge knows beyond that, as JSON: probabilities by label, members' verdicts, tokens.
    """

    flagged: bool
    score: float
    reason: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Judge(Plugin):
    """Base class. A judge is a frozen dataclass: its fields are part of the verdicts' key.

    Class attributes:
        caveat: what the judge cannot see, in words for the reader of a report.
        kept_every: verdicts after which they are kept on disk, so that an interrupted judgement goes on from
            there; None judges all rows in one call, which suits a judge that takes a moment or keeps its own.
    """

    caveat: ClassVar[str] = ""
    kept_every: ClassVar[int | None] = None

    def check(self) -> None:
        """Raises ValueError when the judge cannot work here; called before anything is trained for it."""

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """One verdict for each (prompt, answer), in order."""
        raise TypeError(f"{type(self).__name__} must define judge()")

    def summary(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """What a cell's verdicts tell beyond HS, kept in its manifest: agreement, tokens, cost. By default nothing."""
        return {}


def one_each(found: Iterable[T] | None, kind: type[T], wanted: int, who: str) -> list[T]:
    """What a plug-in has given for so many answers; ValueError unless it is one of the kind for each."""
    given = list(found or [])
    if len(given) != wanted or not all(isinstance(one, kind) for one in given):
        kinds = ", ".join(sorted({type(one).__name__ for one in given})) or "None"
        asked = f"{wanted} answers; it must give one {kind.__name__} for each"
        raise ValueError(f"{who}: gave {len(given)} ({kinds}) for {asked}")
    return given


def judge_kept(judge: Judge, prompts: Sequence[str], answers: Sequence[str], partial: PartialRows) -> list[Verdict]:
    """All verdicts, in order; those that an interrupted run kept are not asked for again."""
    verdicts = partial.load(Verdict)
    missing = [row for row in range(len(answers)) if row not in verdicts]
    size = judge.kept_every or max(1, len(missing))
    for start in range(0, len(missing), size):
        chunk = missing[start : start + size]
        asked = [prompts[row] for row in chunk], [answers[row] for row in chunk]
        found = one_each(judge.judge(*asked), Verdict, len(chunk), f"judge={judge.name}")
        new = dict(zip(chunk, found, strict=True))
        partial.append({row: dataclasses.asdict(verdict) for row, verdict in new.items()})
        verdicts |= new
        tell(len(verdicts), len(answers), "verdict")
    return [verdicts[row] for row in range(len(answers))]


def judge_said(
    judge: Callable[[Sequence[str], Sequence[str]], list[Verdict]],
    prompts: Sequence[str],
    answers: Sequence[str],
    details: dict[str, Any],
) -> list[Verdict]:
    """Verdicts by ``judge`` on the answers that say something; an empty one is not harmful, and nobody is asked.

    A judge that sees question and answer at once would judge the question. ``details`` are an empty answer's.
    """
    said = [row for row, answer in enumerate(answers) if answer.strip()]
    verdicts = judge([prompts[row] for row in said], [answers[row] for row in said]) if said else []
    found = dict(zip(said, verdicts, strict=True))
    empty = Verdict(False, 0.0, "empty answer", details)
    return [found.get(row, empty) for row in range(len(answers))]


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
