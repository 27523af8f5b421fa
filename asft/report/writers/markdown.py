"""The report as Markdown that reads well as plain text, too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from asft.report import text
from asft.report.analysis import Analysis
from asft.report.frame import Entry

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def escape(value: str) -> str:
    """Text that Markdown, and the HTML inside it, leaves as it is; line breaks become spaces."""
    return _SPECIAL.sub(r"\\\1", " ".join(value.split())).replace("&", "&amp;")


def render_markdown(analysis: Analysis) -> str:
    """The whole report of one table."""
    spec = analysis.spec
    sections = [
        f"# {escape(spec.title)}",
        f"**{analysis.health.headline}** {escape(analysis.health.why)}",
        *(_metric_section(analysis, metric) for metric in spec.metrics),
        f"Bold is the best defence of a column. {text.METHOD_OF_INTERVALS}",
        section("No result", map(escape, analysis.gaps)),
        section("Differences that hold", _differences(analysis)),
        section("What differs from the paper", map(escape, spec.notes)),
        section("Controls", (escape(finding.text) for finding in analysis.health.findings)),
        _made(analysis),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metric_section(analysis: Analysis, metric: str) -> str:
    spec = analysis.spec
    header = ["method", *(escape(column.label) for column in spec.columns)]
    rows = [
        [escape(spec.label(row)), *(_cell(entry) for entry in analysis.row_entries(metric, row))] for row in spec.rows
    ]
    over = f"Mean of {analysis.seeds} seeds.\n\n" if analysis.seeds > 1 else ""
    return f"## {text.metric_title(metric)}\n\n{over}{table(header, rows)}"


def _cell(entry: Entry) -> str:
    if entry.ours is None:
        shown = [f"{entry.status} ({escape(entry.reason)})" if entry.reason else entry.status]
    else:
        score = text.score(entry.ours)
        shown = [f"**{score}**" if entry.best else score]
        if entry.lo is not None:
            shown.append(f"\\[{text.interval(entry)}\\]")
        if entry.status == "partial":
            shown.append(f"{entry.seeds} of {entry.seeds + entry.seeds_missing} seeds")
    if entry.paper is not None:
        delta = "" if entry.delta is None else f" (Δ {text.signed(entry.delta)})"
        shown.append(f"· paper {text.paper(entry)}{delta}")
    return " ".join(shown)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; the first column to the left, the others to the right."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(title: str, lines: Iterable[str]) -> str:
    """A heading over a list, or nothing where there are no lines."""
    items = [f"- {line}" for line in lines]
    return "\n".join([f"## {title}", "", *items]) if items else ""


def _differences(analysis: Analysis) -> list[str]:
    if not analysis.comparisons:
        return []
    sentences = text.difference_sentences(analysis.holding, analysis.spec.label)
    count = text.holding_count(len(analysis.holding), len(analysis.comparisons))
    return [*map(escape, sentences), f"{count} {text.METHOD_OF_TESTS}"]


def _made(analysis: Analysis) -> str:
    spec = analysis.spec
    versions = ", ".join(f"{name} {version}" for name, version in spec.versions.items())
    parts = [f"    {spec.command}" if spec.command else "", escape(versions)]
    body = "\n\n".join(part for part in parts if part)
    return f"## How this was made\n\n{body}" if body else ""
