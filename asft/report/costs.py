"""What the cells of a table cost, and the settings that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asft.report.analysis import Analysis
from asft.report.records import CellRecord


@dataclass(frozen=True)
class MethodCost:
    """One row's cells together: wall seconds, how many trained, peak memory in MiB where measured."""

    label: str
    cells: int
    trained: int
    seconds: float
    peak_memory_mb: float | None


def method_costs(analysis: Analysis) -> tuple[MethodCost, ...]:
    """The cost of each row that has a finished cell."""
    costs = []
    for row in analysis.spec.rows:
        records = analysis.row_records(row)
        if not records:
            continue
        peaks = [record.peak_memory_mb for record in records if record.peak_memory_mb is not None]
        costs.append(
            MethodCost(
                label=analysis.spec.label(row),
                cells=len(records),
                trained=sum(record.trained for record in records),
                seconds=sum(record.seconds for record in records),
                peak_memory_mb=max(peaks, default=None),
            )
        )
    return tuple(costs)


def shared_settings(records: Sequence[CellRecord]) -> dict[str, str]:
    """Dotted config key to value, for the keys that every cell holds with one and the same value."""
    flat = [flatten(record.config) for record in records]
    if not flat:
        return {}
    return {key: value for key, value in flat[0].items() if all(other.get(key) == value for other in flat[1:])}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A configuration as dotted keys and their values as text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
