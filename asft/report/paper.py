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


def paper_value(table: str | None, metric: str, method: str, axis_value: AxisValue) -> float | None:
    """The paper's figure for one place of one of its tables, in percent.

    None where the paper has no such table, metric, method or column: a report shows many cells that the paper
    has not, so that is no error.
    """
    entry = paper_tables().get(table) if table else None
    if not isinstance(entry, dict) or "axis" not in entry:
        return None
    printed = entry.get(metric)
    columns = entry["axis"]["values"]
    if not isinstance(printed, dict) or method not in printed or axis_value not in columns:
        return None
    return float(printed[method][columns.index(axis_value)])


def paper_measure(table: str | None, row: str, column: AxisValue) -> float | None:
    """The paper's figure in a table of measured values: Table 1 (|cos|) and Table 7 (EPL); None where it has none."""
    entry = paper_tables().get(table) if table else None
    if not isinstance(entry, dict):
        return None
    if "axis" in entry:
        printed, columns = entry.get(row), entry["axis"]["values"]
        return float(printed[columns.index(column)]) if isinstance(printed, list) and column in columns else None
    names: list[str] = entry.get("rows", [])
    line = next((line for line in entry.get("values", []) if line[0] == column), None)
    return float(line[names.index(row)]) if line is not None and row in names else None
