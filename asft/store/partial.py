"""Rows that a stage has finished before it was interrupted: one JSON object a line, appended batch by batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import make_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from asft.store.errors import DamagedEntry
from asft.store.schemas import parse


class PartialRows:
    """Values by row index or other name, on disk. A torn last line, left by a killed writer, is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def load(self, schema: Any = Any) -> dict[Any, Any]:
        """What is there; the file is cut to its whole lines, so that appending goes on from one.

        A row that is none, or whose value is not what ``schema`` says, is left out and so made again.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        rows: dict[Any, Any] = {}
        for line in whole.splitlines():
            with suppress(DamagedEntry):
                row = parse(line, _line(schema), self.path)
                rows[row.row] = row.value
        return rows

    def append(self, values: Mapping[Any, Any]) -> None:
        """Adds finished rows."""
        lines = (json.dumps({"row": row, "value": value}) + "\n" for row, value in values.items())
        with self.path.open("a") as file:
            file.write("".join(lines))


@lru_cache
def _line(schema: Any) -> Any:
    return make_dataclass("Line", [("row", int | str), ("value", schema)])
