"""The paper's printed figures, as data."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from asft.report.records import AxisValue


@cache
def paper_tables() -> dict[str, Any]:
    """``paper_tables.yaml`` as it stands."""
    text = files("asft.report").joinpath("paper_tables.yaml").read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables


def paper_value(table: str | None, metric: str, row: str, column: AxisValue) -> float | None:
    """The paper's figure for one place of one of its tables.

    None where the paper has no such table, metric, row or column: a report shows many cells that the paper has not,
    so that is no error.
    """
    entry = paper_tables().get(table) if table else None
    if not isinstance(entry, dict) or "axis" not in entry:
        return None
    columns, printed = entry["axis"]["values"], entry.get(metric)
    if not isinstance(printed, dict) or row not in printed or column not in columns:
        return None
    return float(printed[row][columns.index(column)])
