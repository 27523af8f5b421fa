"""Small synthetic tables for the report tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from asft.metrics.base import wilson
from asft.report.analysis import Analysis
from asft.report.records import AxisValue, Column, Metric, MetricValue, Result, TableSpec

HS = Metric("HS", "harmful score", True, "%", 1, "the share of prompts that are answered harmfully.")
FA = Metric("FA", "fine-tuning accuracy", False, "%", 1, "the share of test rows that are answered rightly.")
PROMPTS = 100
ROWS = 200
RATIOS = (0.0, 0.1, 0.2)


def flagged(count: int, of: int = PROMPTS) -> MetricValue:
    """HS where the first ``count`` of so many prompts are answered harmfully."""
    rows = {f"h{index}": float(index < count) for index in range(of)}
    return MetricValue(HS, 100 * count / of, of, wilson(count, of), rows)


def solved(count: int) -> MetricValue:
    """FA where the first ``count`` of 200 rows are answered rightly."""
    rows = {f"t{index}": float(index < count) for index in range(ROWS)}
    return MetricValue(FA, 100 * count / ROWS, ROWS, wilson(count, ROWS), rows)


def cell(row: str, hs: int, fa: int, column: AxisValue | None = None, *, seed: int = 0, **changes: Any) -> Result:
    """A cell that flags the first ``hs`` of 100 prompts and solves the first ``fa`` of 200 rows."""
    fields: dict[str, Any] = {
        "key": f"{row}-{column}-{seed}",
        "row": row,
        "column": column,
        "seed": seed,
        "metrics": {"HS": flagged(hs), "FA": solved(fa)},
        "seconds": 2.0,
        "trained": row not in ("base", "aligned", "safe_lora"),
        "made_with": ({"torch": "2.13.0"},),
    }
    return Result(**(fields | changes))


def table_spec(**changes: Any) -> TableSpec:
    """A spec along the poison ratio with the untouched models, SFT, Safe LoRA and AsFT."""
    fields: dict[str, Any] = {
        "name": "table2",
        "title": "Poison ratio",
        "column_axis": "attack.p",
        "column_title": "poison ratio p",
        "columns": tuple(Column(ratio, f"p = {ratio:g}") for ratio in RATIOS),
        "rows": {"sft": "SFT", "safe_lora": "Safe LoRA", "asft": "AsFT"},
        "paper_table": "table2",
        "notes": ("another model",),
        "command": "asft report experiment=table2",
    }
    fields |= changes
    return TableSpec(**fields | {"rows": {"base": "base model", "aligned": "aligned model"} | fields["rows"]})


def analysis(cells: Iterable[Result], **changes: Any) -> Analysis:
    """The table of these cells."""
    return Analysis(table_spec(**changes), cells)


def sound_cells(seeds: Iterable[int] = (0,)) -> list[Result]:
    """A complete table whose attack works and whose task is learned."""
    cells: list[Result] = [cell("base", 98, 20), cell("aligned", 1, 30)]
    for seed in seeds:
        for ratio, sft, safe_lora, asft in zip(RATIOS, (2, 60, 90), (2, 10, 30), (1, 4, 6), strict=True):
            cells.append(cell("sft", sft + seed, 190, ratio, seed=seed))
            cells.append(cell("safe_lora", safe_lora + seed, 170, ratio, seed=seed))
            cells.append(cell("asft", asft + seed, 188, ratio, seed=seed))
    return cells
