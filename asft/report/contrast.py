"""Two rows compared over a table's columns, and the one sentence that a report leads with.

A contrast is paired on the same prompts and averaged over the columns in which the attack works; prompts (and seeds,
where there are several) are resampled, the columns are not: they are the tasks, sources, models or ratios that the
table is about. It counts where p < 0.05 after Holm's correction over the contrasts that are looked at together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from asft.report.analysis import HARM, Analysis
from asft.report.records import Column, Result
from asft.report.statistics import ALPHA, holm, pair_by_seed, paired_p_over_columns, shared_seeds

Verdict = Literal["lower", "higher", "mixed", "not shown"]


@dataclass(frozen=True)
class Contrast:
    """``first − second`` in points of one metric, mean over columns; ``paper`` the same from the paper's figures.

    The paper may print fewer columns: ``as_printed`` is ours in those. ``seeds`` is how many a column has at least.
    ``p_value`` is None where the columns share no seed or prompts (other test rows in each). ``lower`` and ``higher``
    name the columns in which the difference holds by itself after the table's correction, with its size.
    """

    first: str
    second: str
    metric: str
    difference: float
    p_value: float | None
    paper: float | None
    as_printed: float | None
    lower_in: int
    columns: int
    seeds: int
    lower: tuple[str, ...] = ()
    higher: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The direction that is borne out; mixed where columns point both ways."""
        if self.lower and self.higher:
            return "mixed"
        if self.p_value is None or self.p_value >= ALPHA:
            return "not shown"
        return "lower" if self.difference < 0 else "higher"


def contrast(
    analysis: Analysis, first: str, second: str, columns: Sequence[Column], metric: str = HARM
) -> Contrast | None:
    """Compares two rows over those of the columns in which both have a seed; None where that is none.

    A column's difference is over the seeds that both rows have there, the test over those that they have everywhere.
    """
    places = {column: (analysis.at(first, column), analysis.at(second, column)) for column in columns}
    seeds = {column: found for column, place in places.items() if (found := shared_seeds(*place, metric))}
    if not seeds:
        return None
    columns = list(seeds)
    differences = [
        one - other
        for column in columns
        for one, other in [[_mean(results, metric, seeds[column]) for results in places[column]]]
    ]
    papers = [[analysis.paper(metric, row, column) for row in (first, second)] for column in columns]
    printed = [
        (one - other, ours)
        for (one, other), ours in zip(papers, differences, strict=True)
        if one is not None and other is not None
    ]
    in_all = set.intersection(*seeds.values())
    lower, higher = _holding(analysis, first, second, metric, columns)
    return Contrast(
        first,
        second,
        metric,
        difference=fmean(differences),
        p_value=paired_p_over_columns([pair_by_seed(*places[column], metric, in_all) for column in columns]),
        paper=fmean(theirs for theirs, _ in printed) if printed else None,
        as_printed=fmean(ours for _, ours in printed) if printed else None,
        lower_in=sum(difference < 0 for difference in differences),
        columns=len(columns),
        seeds=min(map(len, seeds.values())),
        lower=lower,
        higher=higher,
    )


def _mean(results: Sequence[Result], metric: str, seeds: Collection[int]) -> float:
    return fmean(result.metrics[metric].value for result in results if result.seed in seeds)


def contrasts(analysis: Analysis, first: str, others: Sequence[str]) -> list[Contrast]:
    """A row against others on HS where the attack works, with Holm's correction over those that have a p-value."""
    compared = (contrast(analysis, first, other, analysis.attacked_columns) for other in others)
    found = [item for item in compared if item is not None]
    values = iter(holm([item.p_value for item in found if item.p_value is not None]))
    return [item if item.p_value is None else replace(item, p_value=next(values)) for item in found]


def finding(analysis: Analysis) -> str:
    """What the table says of the defence that all are compared to, in one sentence; empty where it says nothing."""
    spec = analysis.spec
    first = next((row for row in reversed(spec.compare_to) if row in spec.candidates), None)
    if first is None:
        return ""
    compared = contrasts(analysis, first, [row for row in spec.rows if row != first and not analysis.untouched(row)])
    found = [item for item in compared if item.columns == len(analysis.attacked_columns)]
    words: dict[Verdict, list[str]] = {}
    for item in found:
        points = "" if item.verdict == "not shown" else f" ({item.difference:+.1f})".replace("-", "−")
        words.setdefault(item.verdict, []).append(spec.label(item.second) + points)
    says = {"lower": "lower than", "higher": "higher than", "mixed": "in some columns lower and in others higher than"}
    parts = [f"{says[verdict]} {_listed(words[verdict])}" for verdict in says if verdict in words]
    if "not shown" in words:
        parts.append(f"not shown to differ from {_listed(words['not shown'])}")
    if not found:
        return ""
    where = "the column" if found[0].columns == 1 else f"the {found[0].columns} columns"
    return f"Over {where} in which the attack works {spec.label(first)}'s HS is, in points: {'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _holding(
    analysis: Analysis, first: str, second: str, metric: str, columns: Sequence[Column]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns in which the first is lower, and higher, than the second by a tested difference that holds."""
    labels = {column.label for column in columns}
    signs = {(first, second): 1, (second, first): -1}
    found = [
        (f"{item.column} (by {abs(item.result.difference):.1f})", item.result.difference * sign < 0)
        for item in analysis.holding
        if (sign := signs.get((item.method, item.reference))) and item.metric.name == metric and item.column in labels
    ]
    return tuple(words for words, lower in found if lower), tuple(words for words, lower in found if not lower)
