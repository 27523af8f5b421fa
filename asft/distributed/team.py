"""The processes that compute a cell together: one by default, several under ``torchrun``.

The first process runs the program: it decides, writes the store and judges. The others wait for its calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from asft.store.errors import OutOfStep

T = TypeVar("T")


class Team:
    """One process alone, which does by itself what several do together.

    Attributes:
        rank: this process' number, from 0; rank 0 runs the program.
        size: how many processes there are.
        local_rank: its number on its machine, which is also its GPU's.
    """

    rank = 0
    size = 1
    local_rank = 0

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """What ``function`` returns here, while every other process calls it with the same arguments.

        Rank 0 calls. Function and arguments are pickled.

        Raises:
            OutOfStep: where another process failed, or this one failed alone.
        """
        return function(*arguments)

    def agree(self, value: T) -> T:
        """Rank 0's value."""
        return value

    def gather(self, value: T) -> list[T]:
        """Every process' value, by rank."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process."""
        return flag

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Inside the ``with`` block rank 0 is done before the others begin."""
        yield

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Inside the ``with`` block libraries find the launcher's variables and go about it as several processes."""
        yield

    @contextmanager
    def recorded(self, record: Callable[[OutOfStep], None]) -> Iterator[None]:
        """``record`` is told why, should this process have to be ended in the middle of a call."""
        yield


def started_together() -> int:
    """How many processes the launcher (``torchrun``, ``accelerate launch``) has started."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


ALONE = Team()
_team = ALONE


def team() -> Team:
    """This process' team."""
    return _team


@contextmanager
def joined(team: Team) -> Iterator[None]:
    """Makes ``team`` this process' team inside the ``with`` block."""
    global _team
    before, _team = _team, team
    try:
        yield
    finally:
        _team = before
