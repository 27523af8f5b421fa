"""How places, numbers and verdicts read in words: the same in the terminal, in Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from asft.report.analysis import Analysis, Difference
from asft.report.records import Metric
from asft.report.table import Entry


@dataclass(frozen=True)
class Shown:
    """How a place reads; what there is none of is empty.

    Attributes:
        value: our score, or the place's status.
        interval: ``2.2–7.2``.
        paper: the paper's figure; ``delta`` ours minus it, with its sign.
        seeds: ``1 of 2 seeds`` where some have no result.
        spread: the range over several seeds.
        reason: why there is no result.
    """

    value: str
    interval: str
    paper: str
    delta: str
    seeds: str
    spread: str
    reason: str


def shown(entry: Entry) -> Shown:
    """The text of one place; writers add nothing to it but their own marks.

    The paper's percentages have the two decimals they are printed with; a delta is told in points only.
    """
    metric, decimals = entry.metric, entry.metric.decimals
    done, several = entry.ours is not None, entry.seeds > 1
    return Shown(
        value=number(entry.ours, metric) if done else entry.status,
        interval="" if entry.lo is None else f"{number(entry.lo, metric, 2)}–{number(entry.hi, metric, 2)}",
        paper=number(entry.paper, metric if decimals is None else replace(metric, decimals=decimals + 1)),
        delta="" if entry.delta is None or decimals is None else signed(entry.delta),
        seeds=entry.seeds_words,
        spread=f"{entry.seeds} seeds from {number(entry.minimum, metric)} to {number(entry.maximum, metric)}"
        if several
        else "",
        reason="" if done else entry.reason,
    )


def number(value: float | None, metric: Metric, digits: int = 3) -> str:
    """With the metric's decimals, or else so many significant digits, in powers of ten where small."""
    if value is None:
        return ""
    if metric.decimals is not None:
        return f"{value:.{metric.decimals}f}"
    return f"{value:.{digits}g}" if value == 0 or abs(value) >= 1e-3 or digits < 3 else f"{value:.{digits - 1}e}"


def signed(value: float) -> str:
    """A difference in percentage points with its sign, a true minus; zero is +0.0."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def p_value(value: float) -> str:
    """A p-value, ``< 0.001`` where it is smaller than that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def glossary(analysis: Analysis) -> tuple[str, ...]:
    """What the table's short names mean, a line each."""
    lines = [f"{metric.name}: {metric.about}" for metric in analysis.metrics.values() if metric.about]
    return (*lines, *(DIRECTION_WORDS if analysis.health else ()))


def difference_lines(analysis: Analysis) -> list[str]:
    """The differences that hold in words, one line per metric, pair of rows and direction, and how many were tested.

    ``HS: AsFT better than SFT at p = 0.1, p = 0.2 (by 13.6 to 40.8 points)``
    """
    grouped: dict[tuple[str, str, str, bool], list[Difference]] = {}
    for item in analysis.holding:
        grouped.setdefault((item.metric.name, item.reference, item.method, item.better), []).append(item)
    lines = []
    for (metric, reference, method, better), items in grouped.items():
        points = sorted({f"{abs(item.result.difference):.1f}" for item in items}, key=float)
        by = points[0] if len(points) == 1 else f"{points[0]} to {points[-1]}"
        pair = f"{analysis.spec.label(method)} {'better' if better else 'worse'} than {analysis.spec.label(reference)}"
        lines.append(f"{metric}: {pair} at {', '.join(item.column for item in items)} (by {by} points)")
    if tested := len(analysis.comparisons):
        lines.append(f"{len(analysis.holding)} of {tested} comparisons hold at 5% after Holm's correction.")
    return lines


def versions(found: Mapping[str, str]) -> str:
    """``torch 2.13.0, peft 0.21.2``."""
    return ", ".join(f"{name} {version}" for name, version in found.items())


DIRECTION_WORDS = (
    "p: the share of harmful rows among the fine-tuning rows; of a comparison, how often chance alone gives as much.",
    "Ĉ: a module's alignment direction VVᵀ/‖V‖, V being aligned minus base weights; AsFT penalises (I − Ĉ)BA.",
)
METHOD_OF_INTERVALS = (
    "Brackets are 95% intervals: Wilson's for one seed, Student's t over the seeds for several "
    "(Wilson's of one seed where all seeds agree), a bootstrap over rows for one seed of a graded task."
)
METHOD_OF_TESTS = (
    "Methods are compared on the same prompts: McNemar's exact test for one seed of yes-or-no verdicts, "
    "else a paired bootstrap over prompts and seeds; Holm's correction covers every comparison of this table."
)
