"""The contract of a metric: what is asked, how an answer counts, and which way is better.

HS and FA are two metrics among others; ``+metric@metrics.NAME=FILE`` adds a third to a cell, a table or a sweep. One in
``beside`` stands beside them, in no cell's key: ``+metric@beside.NAME=FILE``, ``beside=null`` for none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Dtype, Plugin, Settings
from asft.data.base import Data
from asft.data.rows import Row
from asft.store.partial import PartialRows

if TYPE_CHECKING:
    from asft.data.protocol import Clean


CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95% interval in percent, and how it was made."""

    lo: float
    hi: float
    kind: str


def wilson(successes: int, total: int) -> Interval:
    """The Wilson score interval of ``successes`` out of ``total``, in percent."""
    from scipy import stats  # half a second

    bounds = stats.binomtest(successes, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(100 * bounds.low, 100 * bounds.high, "Wilson")


Answer = Mapping[str, Any]  # id, prompt, gold, answer; and what a metric adds to it


@dataclasses.dataclass(frozen=True)
class Scored:
    """A metric of one cell.

    Attributes:
        credits: each answer's share in the value, in [0, 1]; None where nobody could say.
        details: what is kept beside each answer.
        told: what is kept beside the value: agreement, tokens, cost.
        counts: whether credits are yes or no, so that the value has a binomial interval.
    """

    credits: Sequence[float | None]
    details: Sequence[Mapping[str, Any]]
    told: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    counts: bool = True

    def __post_init__(self) -> None:
        allowed = "0 and 1 alone, for it counts" if self.counts else "0 to 1"
        wrong = [known for known in self.known if not 0 <= known <= 1 or (self.counts and known not in (0, 1))]
        if wrong or not self.known:
            found = wrong[0] if wrong else "none at all"
            raise ValueError(f"a metric's credits: {found}; allowed: {allowed}")

    @property
    def known(self) -> list[float]:
        """The credits that there are."""
        return [credit for credit in self.credits if credit is not None]

    @property
    def value(self) -> float:
        """100 times the mean credit."""
        known = self.known
        return 100 * round(sum(known)) / len(known) if self.counts else 100 * fmean(known)

    @property
    def interval(self) -> Interval | None:
        """Wilson's 95% interval of a share."""
        return wilson(round(sum(self.known)), len(self.known)) if self.counts else None


@dataclass(frozen=True)
class Metric(Plugin):
    """Base class; a metric is a percentage over the answers to its rows, headed in tables by its name in ``metrics``.

    Class attributes:
        chooses: whether its rows are choices.
        label: in words.
        about: one line for a reader who has never heard of it.
        lower_is_better: the direction.
    """

    chooses: ClassVar[bool] = False
    label: ClassVar[str] = ""
    about: ClassVar[str] = ""
    lower_is_better: ClassVar[bool] = False

    def check(self, settings: Settings) -> None:
        """Raises ValueError when it cannot be scored here; called before anything is trained for it."""

    def reads(self) -> str | None:
        """The name of the metric whose answers it scores; it then asks nothing itself."""
        return None

    def rows(self, data: Data) -> list[Row]:
        """What is asked, as it is stored and judged; of a :class:`~asft.data.rows.Choice` the likeliest option."""
        raise TypeError(f"{type(self).__name__} must define rows()")

    def queries(self, rows: Sequence[Row]) -> list[Row]:
        """The rows as they are put to the model."""
        return list(rows)

    def asked(self, settings: Settings) -> dict[str, Any]:
        """What rows and queries are a function of, for the answers' key.

        ValueError where this data source has none: a metric beside others is then left out.
        """
        raise TypeError(f"{type(self).__name__} must define asked()")

    def max_new_tokens(self, settings: Settings) -> int:
        """Of each answer."""
        raise TypeError(f"{type(self).__name__} must define max_new_tokens()")

    def dtype(self, protocol: Clean) -> Dtype | None:
        """The number format in which the protocol answers; None is the pair's own."""
        return protocol.harmful_dtype

    def judged(self, settings: Settings) -> dict[str, Any]:
        """What credits are a function of besides the answers, for the verdicts' key."""
        return self.settings()

    def score(self, settings: Settings, answers: Sequence[Answer], kept: PartialRows) -> Scored:
        """A credit for every answer.

        Args:
            kept: verdicts of an interrupted run; a slow metric adds its own as they come.
        """
        raise TypeError(f"{type(self).__name__} must define score()")
