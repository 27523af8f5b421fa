"""The report as Markdown that reads well as plain text, too."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from asft.report import text
from asft.report.analysis import Analysis
from asft.report.contrast import finding
from asft.report.table import Entry

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def escape(value: str) -> str:
    """Text that Markdown, and the HTML inside it, leaves as it is; line breaks become spaces."""
    return _SPECIAL.sub(r"\\\1", " ".join(value.split())).replace("&", "&amp;")


def render_markdown(analysis: Analysis) -> str:
    """The whole report of one table."""
    spec, health = analysis.spec, analysis.health
    over = f"Mean of {analysis.seeds} seeds.\n\n" if analysis.seeds > 1 else ""
    sections = [
        f"# {escape(spec.title)}",
        f"**{health.headline}** {escape(health.why)}" if health else "",
        escape(finding(analysis)),
        "\n".join(f"- {escape(line)}" for line in text.glossary(analysis)),
        *(f"## {escape(analysis.heading(name))}\n\n{over}{metric_table(analysis, name)}" for name in analysis.shown),
        f"Bold is the best defence of a column. {text.METHOD_OF_INTERVALS}" if health else "",
        section("No result", map(escape, analysis.gaps)),
        section("Differences that hold", map(escape, text.difference_lines(analysis))),
        text.METHOD_OF_TESTS if analysis.comparisons else "",
        section("What differs from the paper", map(escape, spec.notes)),
        section("Controls", (escape(finding.text) for finding in health.findings) if health else ()),
        _made(analysis),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def metric_table(analysis: Analysis, metric: str, place: Callable[[Entry], str] | None = None) -> str:
    """One metric's table; ``place`` writes a place otherwise than the report does."""
    header = ["method" if analysis.health else "", *(escape(column.label) for column in analysis.spec.columns)]
    lines = [[escape(line[0].label), *map(place or _place, line)] for line in analysis.lines(metric)]
    return table(header, lines)


def _place(entry: Entry) -> str:
    parts = [
        f"**{entry.text}**" if entry.best else entry.text,
        entry.reason and entry.status == "failed" and f"({escape(entry.reason)})",
        entry.range_text and f"\\[{entry.range_text}\\]",
        entry.seeds_text,
        entry.paper_text and f"· paper {entry.paper_text}",
        entry.delta_text and f"(Δ {entry.delta_text})",
    ]
    return " ".join(part for part in parts if part)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = (0,)) -> str:
    """A table of cells that are Markdown already; columns of words to the left, the others to the right."""
    lines = [header, ["---" if column in words else "---:" for column in range(len(header))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(title: str, lines: Iterable[str]) -> str:
    """A heading over a list, or nothing where there are no lines."""
    items = [f"- {line}" for line in lines]
    return "\n".join([f"## {title}", "", *items]) if items else ""


def _made(analysis: Analysis) -> str:
    command = analysis.spec.command
    parts = [f"    {command}" if command else "", escape(text.made_with(analysis.made_with))]
    body = "\n\n".join(part for part in parts if part)
    return f"## How this was made\n\n{body}" if body else ""
