"""Two rows of a table compared over its columns, with what the paper says of the same difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from asft.report.analysis import Analysis
from asft.report.health import MIN_RISE
from asft.report.paper import paper_value
from asft.report.records import CellRecord, Column
from asft.report.statistics import ALPHA, bootstrap_p_value, holm, pair_by_seed, summarise, verdicts

SAME, NOT_SHOWN, CONTRADICTED, MIXED = "same direction", "not shown", "contradicted", "mixed"
REFERENCES = ("sft", "safe_lora")
DIRECTION_CONTROLS = ("l2", "asft_random", "asft_projector")


@dataclass(frozen=True)
class Contrast:
    """``first − second`` in points, mean over columns; ``paper`` the same from the paper's figures.

    ``p_value`` is None where the columns share no prompts (other test rows in each). ``claimed_lower`` is what the
    paper says of the sign, None where it says nothing. ``better`` and ``worse`` name the columns in which the
    difference holds by itself after the table's correction, with its size.
    """

    first: str
    second: str
    metric: str
    difference: float
    p_value: float | None
    paper: float | None
    lower_in: int
    columns: int
    claimed_lower: bool | None
    better: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()

    @property
    def significant(self) -> bool:
        """Whether the paired test bears the difference out."""
        return self.p_value is not None and self.p_value < ALPHA

    @property
    def verdict(self) -> str:
        """Against the paper's sign; an untested or insignificant difference shows nothing."""
        if self.better and self.worse:
            return MIXED
        if not self.significant or self.claimed_lower is None:
            return NOT_SHOWN
        return SAME if (self.difference < 0) == self.claimed_lower else CONTRADICTED


def attacked_columns(analysis: Analysis) -> list[Column]:
    """The columns in which plain fine-tuning raised HS by at least five points over the aligned model."""
    found = []
    for column in analysis.spec.columns:
        undefended = analysis.ours("HS", analysis.spec.undefended, column)
        aligned = analysis.ours("HS", "aligned", column)
        if undefended is not None and aligned is not None and undefended - aligned >= MIN_RISE:
            found.append(column)
    return found


def contrast(
    analysis: Analysis, first: str, second: str, metric: str, columns: Sequence[Column], claim: bool | None = None
) -> Contrast | None:
    """Compares two rows over columns; None where a cell is missing or a row is not in the table.

    Args:
        claim: whether the paper claims the first to be lower, where it prints no figures.
    """
    grid, spec = analysis.grid, analysis.spec
    if {first, second} - set(spec.rows) or not columns:
        return None
    groups = [(grid.at(first, column).records, grid.at(second, column).records) for column in columns]
    if not all(one and other for one, other in groups):
        return None
    differences = [summarise(one, metric).mean - summarise(other, metric).mean for one, other in groups]
    paper = _paper_difference(analysis, first, second, metric, columns)
    better, worse = _holding(analysis, first, second, metric, columns)
    return Contrast(
        first,
        second,
        metric,
        difference=fmean(differences),
        p_value=_p_over_columns(groups, metric),
        paper=paper,
        lower_in=sum(difference < 0 for difference in differences),
        columns=len(columns),
        claimed_lower=claim if paper is None else paper < 0,
        better=better,
        worse=worse,
    )


def _p_over_columns(groups: Sequence[tuple[Sequence[CellRecord], Sequence[CellRecord]]], metric: str) -> float | None:
    """Two-sided p of a mean difference of zero over fixed columns: per prompt and seed the mean over the columns."""
    pairs = [pair_by_seed(one, other) for one, other in groups]
    seeds = min(len(found) for found in pairs)
    tables = [[(verdicts(a, metric), verdicts(b, metric)) for a, b in found[:seeds]] for found in pairs]
    flat = [side for column in tables for pair in column for side in pair]
    shared = sorted(set.intersection(*(set(side) for side in flat))) if flat else []
    if not shared:
        return None
    differences = np.array(
        [[[a[key] - b[key] for key in shared] for a, b in column] for column in tables], dtype=np.float64
    )  # [columns, seeds, prompts]
    return bootstrap_p_value(differences.mean(axis=0))


def _holding(
    analysis: Analysis, first: str, second: str, metric: str, columns: Sequence[Column]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns in which the first is better, and worse, than the second by a tested difference that holds."""
    labels = {column.label for column in columns}
    better: list[str] = []
    worse: list[str] = []
    for item in analysis.holding:
        sign = {(first, second): 1, (second, first): -1}.get((item.method, item.reference))
        if sign is None or item.metric != metric or item.column not in labels:
            continue
        words = f"{item.column} (by {abs(item.result.difference):.1f})"
        (better if item.better == (sign > 0) else worse).append(words)
    return tuple(better), tuple(worse)


def contrasts(
    analysis: Analysis, method: str = "asft", references: Sequence[str] = REFERENCES, *, claimed: bool = False
) -> list[Contrast]:
    """A defence against its references and the direction's controls on HS, corrected over all of them.

    Args:
        claimed: whether the paper claims in words that the defence lowers the HS of plain fine-tuning.
    """
    columns = attacked_columns(analysis)
    found = [
        contrast(analysis, method, other, "HS", columns, True if claimed and other == "sft" else None)
        for other in (*references, *DIRECTION_CONTROLS)
    ]
    return corrected([item for item in found if item is not None])


def corrected(contrasts: list[Contrast]) -> list[Contrast]:
    """Holm's correction over the contrasts that have a p-value."""
    values = iter(holm([item.p_value for item in contrasts if item.p_value is not None]))
    return [item if item.p_value is None else replace(item, p_value=next(values)) for item in contrasts]


def _paper_difference(
    analysis: Analysis, first: str, second: str, metric: str, columns: Sequence[Column]
) -> float | None:
    pairs = [
        [paper_value(analysis.spec.paper_table, metric, row, column.paper_value) for row in (first, second)]
        for column in columns
    ]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    return fmean(one - other for one, other in known) if known else None
