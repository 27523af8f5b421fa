"""How numbers and verdicts read in words: the same in the terminal, in Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from asft.report.frame import Entry
from asft.report.records import LOWER_IS_BETTER, METRIC_NAMES
from asft.report.statistics import Difference


def score(value: float) -> str:
    """A score in percent, one decimal."""
    return f"{value:.1f}"


def signed(value: float) -> str:
    """A difference in percentage points with its sign, a true minus; zero is +0.0."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def interval(entry: Entry) -> str:
    """``2.2–7.2``, or nothing where there is no interval."""
    return "" if entry.lo is None or entry.hi is None else f"{score(entry.lo)}–{score(entry.hi)}"


def spread(entry: Entry) -> str:
    """The range over several seeds, or nothing for one."""
    if entry.seeds < 2 or entry.minimum is None or entry.maximum is None:
        return ""
    return f"{entry.seeds} seeds from {score(entry.minimum)} to {score(entry.maximum)}"


def paper(entry: Entry) -> str:
    """The paper's figure with the two decimals it is printed with."""
    return "" if entry.paper is None else f"{entry.paper:.2f}"


def metric_title(metric: str) -> str:
    """``HS, harmful score in % (lower is better)``."""
    direction = "lower" if LOWER_IS_BETTER[metric] else "higher"
    return f"{metric}, {METRIC_NAMES[metric]} in % ({direction} is better)"


def p_value(value: float) -> str:
    """A p-value, ``< 0.001`` where it is smaller than that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def difference_sentences(differences: Iterable[Difference], label: Callable[[str], str]) -> tuple[str, ...]:
    """The differences that hold in words, one sentence per metric, pair of rows and direction.

    ``HS: AsFT better than SFT at p = 0.1, p = 0.2 (by 13.6 to 40.8 points)``
    """
    grouped: dict[tuple[str, str, str, bool], list[Difference]] = {}
    for item in differences:
        grouped.setdefault((item.metric, item.reference, item.method, item.better), []).append(item)
    sentences = []
    for (metric, reference, method, better), items in grouped.items():
        points = sorted({score(abs(item.result.difference)) for item in items}, key=float)
        by = points[0] if len(points) == 1 else f"{points[0]} to {points[-1]}"
        columns = ", ".join(item.column for item in items)
        side = "better" if better else "worse"
        pair = f"{label(method)} {side} than {label(reference)}"
        sentences.append(f"{metric}: {pair} at {columns} (by {by} points)")
    return tuple(sentences)


def holding_count(holding: int, tested: int) -> str:
    """How many comparisons hold, out of how many."""
    return f"{holding} of {tested} comparisons hold at 5% after Holm's correction."


METHOD_OF_INTERVALS = (
    "Brackets are 95% intervals: Wilson's for one seed, Student's t over the seeds for several "
    "(Wilson's of one seed where all seeds agree), a bootstrap over rows for one seed of a graded task."
)
METHOD_OF_TESTS = (
    "Methods are compared on the same prompts: McNemar's exact test for one seed of yes-or-no verdicts, "
    "else a paired bootstrap over prompts and seeds; Holm's correction covers every comparison of this table."
)
