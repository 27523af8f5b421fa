"""Small synthetic tables for the report tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from asft.report.records import Cell, CellRecord, Column, TableSpec

PROMPTS = 100
ROWS = 200
RATIOS = (0.0, 0.1, 0.2)


def cell(
    method: str,
    hs: int,
    fa: int,
    *,
    p: float | None = None,
    seed: int = 0,
    axis: Mapping[str, Any] | None = None,
    **changes: Any,
) -> CellRecord:
    """A cell that flags the first ``hs`` of 100 prompts and solves the first ``fa`` of 200 rows."""
    place = dict(axis) if axis is not None else ({} if p is None else {"attack.p": p})
    fields: dict[str, Any] = {
        "key": f"{method}-{place}-{seed}",
        "method": method,
        "axis": place,
        "seed": seed,
        "hs_flagged": hs,
        "hs_total": PROMPTS,
        "fa_score": 100 * fa / ROWS,
        "fa_correct": fa,
        "fa_total": ROWS,
        "harmful_verdicts": {f"h{index}": index < hs for index in range(PROMPTS)},
        "task_verdicts": {f"t{index}": float(index < fa) for index in range(ROWS)},
        "seconds": 2.0,
        "peak_memory_mb": None,
        "trained": method not in ("base", "aligned", "safe_lora"),
    }
    return CellRecord(**(fields | changes))


def table_spec(**changes: Any) -> TableSpec:
    """A spec along the poison ratio with SFT, Safe LoRA and AsFT."""
    fields: dict[str, Any] = {
        "name": "table2",
        "title": "Poison ratio",
        "column_axis": "attack.p",
        "column_title": "poison ratio p",
        "columns": tuple(Column(ratio, f"p = {ratio:g}") for ratio in RATIOS),
        "methods": {"sft": "SFT", "safe_lora": "Safe LoRA", "asft": "AsFT"},
        "paper_table": "table2",
        "notes": ("another model",),
        "command": "asft report experiment=table2",
        "versions": {"torch": "2.13.0"},
    }
    return TableSpec(**(fields | changes))


def sound_cells(seeds: Iterable[int] = (0,)) -> list[Cell]:
    """A complete table whose attack works and whose task is learned."""
    cells: list[Cell] = [cell("base", 98, 20), cell("aligned", 1, 30)]
    for seed in seeds:
        for ratio, sft, safe_lora, asft in zip(RATIOS, (2, 60, 90), (2, 10, 30), (1, 4, 6), strict=True):
            cells.append(cell("sft", sft + seed, 190, p=ratio, seed=seed))
            cells.append(cell("safe_lora", safe_lora + seed, 170, p=ratio, seed=seed))
            cells.append(cell("asft", asft + seed, 188, p=ratio, seed=seed))
    return cells
