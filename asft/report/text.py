"""How tests, versions and short names read in words: the same in the terminal, in Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from asft.report.analysis import Analysis, Difference


def p_value(value: float) -> str:
    """A p-value, ``< 0.001`` where it is smaller than that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def glossary(analysis: Analysis) -> tuple[str, ...]:
    """What the table's short names mean, a line each."""
    lines = [f"{metric.name}: {metric.about}" for metric in analysis.shown.values() if metric.about]
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


UNKNOWN = "a device that was not noted"  # entries of earlier versions do not say it


def made_with(made: Iterable[Mapping[str, str]]) -> str:
    """``torch 2.13.0, peft 0.21.1 and 0.21.2, on NVIDIA H100``: the versions and devices of all that was made."""
    found: dict[str, dict[str, None]] = {}
    for one in made:
        for name, version in one.items():
            found.setdefault(name, {})[version] = None
    found |= {"on": found.pop("on")} if "on" in found else {}
    return ", ".join(
        f"{name} {' and '.join(versions)}" for name, versions in found.items() if list(versions) != [UNKNOWN]
    )


DIRECTION_WORDS = (
    "p: the share of harmful rows among the fine-tuning rows; of a comparison, how often chance alone gives as much.",
    "Ĉ: a module's alignment direction VVᵀ/‖V‖, V being aligned minus base weights; AsFT penalises (I − Ĉ)BA.",
)
METHOD_OF_INTERVALS = (
    "The range at a score is its 95% interval: Wilson's for one seed, Student's t over the seeds for several "
    "(Wilson's of one seed where all seeds agree), a bootstrap over rows for one seed of a graded task."
)
METHOD_OF_TESTS = (
    "Methods are compared on the same prompts: McNemar's exact test for one seed of yes-or-no verdicts, "
    "else a paired bootstrap over prompts and seeds; Holm's correction covers every comparison of this table."
)
