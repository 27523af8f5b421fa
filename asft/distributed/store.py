"""A store that several processes look into together: the first looks and writes, the others take its word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from asft.distributed.team import team
from asft.store.entries import Entry, Store


class SharedStore(Store):
    """The store of a cell that every process of a team goes through; each asks it the same at the same time."""

    @property
    def _own(self) -> Store:
        return Store(self.root)

    def find(self, kind: str, key: str, *, whole: bool = False) -> Entry | None:
        return team().first(partial(self._own.find, kind, key, whole=whole))

    def ensure(self, kind: str, settings: Mapping[str, Any], produce: Callable[[Path], dict[str, Any]]) -> Entry:
        """See :meth:`Store.ensure`; the first process alone computes the entry."""
        return team().first(partial(self._own.ensure, kind, settings, produce))

    def ensure_together(
        self, kind: str, settings: Mapping[str, Any], produce: Callable[[Path], dict[str, Any]]
    ) -> Entry:
        """As :meth:`ensure`, with ``produce`` called in every process; what the first one returns is kept."""
        return team().lead(partial(self._own.ensure, kind, settings), produce)
