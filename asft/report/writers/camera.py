"""Figures and the table for print, as PDF: one style, sized for a paper's columns, readable in grey.

Fonts are embedded as TrueType, which conference checks ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asft.report import text
from asft.report.analysis import Analysis
from asft.report.table import Entry
from asft.report.writers.figures import CONTROL_COLOUR, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN_WIDTH, TEXT_WIDTH = 3.3, 6.8  # inches
ROW_HEIGHT = 0.17  # inches a line of the table
STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "font.family": "serif",
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.02,
}
# Plotly's names of the symbols in matplotlib's alphabet.
MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "x": "X",
    "pentagon": "p",
    "star": "*",
    "hexagon": "h",
    "cross": "P",
    "triangle-down": "v",
}
CONTROL_MARKERS = ("o", "s", "D", "^", "v", "p")


def write_pdf(analysis: Analysis, folder: Path) -> list[Path]:
    """Writes ``table.pdf``, ``along-columns.pdf`` and, where there are both scores, ``trade-off.pdf``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [_table(analysis, folder), _along_columns(analysis, folder)]
    if {"HS", "FA"} <= analysis.metrics.keys():
        paths.append(_trade_off(analysis, folder))
    return paths


@contextmanager
def _figure(path: Path, rows: int, width: float, height: float) -> Iterator[list[Axes]]:
    """Axes one above the other in the common style, saved as PDF at the end."""
    from matplotlib import rc_context  # slow to import, and not needed by a table
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield list(figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0])
        # Without a date the same cells give the same bytes.
        figure.savefig(path, metadata={"CreationDate": None})


def _style(analysis: Analysis, row: str) -> dict[str, Any]:
    """A method's colour and symbol, the same as on the page; controls are grey and hollow."""
    spec = analysis.spec
    if row in spec.candidates:
        colour, symbol = PALETTE[spec.candidates.index(row) % len(PALETTE)]
        return {"color": colour, "marker": MARKERS[symbol]}
    position = [name for name in spec.rows if name not in spec.candidates].index(row)
    marker = CONTROL_MARKERS[position % len(CONTROL_MARKERS)]
    return {"color": CONTROL_COLOUR, "marker": marker, "markerfacecolor": "none"}


def _along_columns(analysis: Analysis, folder: Path) -> Path:
    """Each metric over the columns with 95% intervals, the paper's figures dotted."""
    spec, path = analysis.spec, folder / "along-columns.pdf"
    rows = [row for row in spec.rows if not analysis.spans(row)]
    places = list(range(len(spec.columns)))
    with _figure(path, len(analysis.metrics), COLUMN_WIDTH, 1.7 * len(analysis.metrics) + 0.5) as axes:
        for ax, metric in zip(axes, analysis.metrics, strict=True):
            for position, row in enumerate(rows):
                # A little aside each, so that intervals do not cover one another.
                shift = 0.3 * (position / max(1, len(rows) - 1) - 0.5)
                _draw_row(ax, analysis, row, analysis.line(metric, row).entries, [place + shift for place in places])
            ax.set_ylabel(f"{metric}, %")
        axes[-1].set_xticks(places, [column.label for column in spec.columns])
        axes[-1].set_xlabel(spec.axis_words)
        handles, labels = axes[0].get_legend_handles_labels()
        axes[-1].figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return path


def _draw_row(ax: Axes, analysis: Analysis, row: str, entries: Sequence[Entry], x: Sequence[float]) -> None:
    done = [(place, entry, entry.ours) for place, entry in zip(x, entries, strict=True) if entry.ours is not None]
    style = _style(analysis, row)
    if done:
        reach = [[_reach(entry, entry.lo) for _, entry, _ in done], [_reach(entry, entry.hi) for _, entry, _ in done]]
        places, scores = [place for place, _, _ in done], [ours for _, _, ours in done]
        ax.errorbar(places, scores, yerr=reach, label=analysis.spec.label(row), elinewidth=0.6, capsize=1.5, **style)
    printed = [(place, entry.paper) for place, entry in zip(x, entries, strict=True) if entry.paper is not None]
    if printed:
        ax.plot(*zip(*printed, strict=True), linestyle=":", linewidth=0.7, color=style["color"])


def _reach(entry: Entry, end: float | None) -> float:
    """From a score to an end of its interval; 0 where there is none."""
    return 0.0 if end is None or entry.ours is None else abs(end - entry.ours)


def _trade_off(analysis: Analysis, folder: Path) -> Path:
    """FA against HS, a point a cell."""
    path = folder / "trade-off.pdf"
    with _figure(path, 1, COLUMN_WIDTH, 2.8) as (ax,):
        for row in analysis.spec.rows:
            records = analysis.row_records(row)
            if records and not analysis.untouched(row):
                style, label = _style(analysis, row), analysis.spec.label(row)
                hs, fa = ([record.metrics[name].value for record in records] for name in ("HS", "FA"))
                ax.plot(hs, fa, linestyle="none", label=label, **style)
        ax.set_xlabel("HS, % (lower is better)")
        ax.set_ylabel("FA, % (higher is better)")
        ax.figure.legend(loc="outside lower center", ncols=3)
    return path


def _table(analysis: Analysis, folder: Path) -> Path:
    """The table as it would be set with booktabs: ours above the paper's, the best in bold."""
    spec, path = analysis.spec, folder / "table.pdf"
    lines = list(_table_lines(analysis))
    height = ROW_HEIGHT * (len(lines) + 1)
    with _figure(path, 1, TEXT_WIDTH, height) as (ax,):
        ax.axis("off")
        ax.set_xlim(0, 1)
        ax.set_ylim(len(lines), -1)
        step = 0.78 / len(spec.columns)
        for y, (label, cells, bold, rule) in enumerate(lines):
            ax.text(0, y, label, va="center", style="italic" if not any(cells) else "normal")
            for position, (shown, strong) in enumerate(zip(cells, bold, strict=True)):
                weight = "bold" if strong else "normal"
                ax.text(0.22 + step * (position + 1), y, shown, va="center", ha="right", weight=weight)
            if rule:
                ax.axhline(y - 0.5, color="black", linewidth=rule)
        ax.axhline(len(lines) - 0.5, color="black", linewidth=0.9)
    return path


def _table_lines(analysis: Analysis) -> Iterator[tuple[str, list[str], list[bool], float]]:
    """Label, cells, which are bold, and the width of a rule above (0: none), line by line."""
    spec = analysis.spec
    plain = [False] * len(spec.columns)
    yield spec.axis_words, [column.label for column in spec.columns], plain, 0.9
    for name, metric in analysis.metrics.items():
        yield metric.title, [""] * len(spec.columns), plain, 0.5
        for line in analysis.lines(name):
            shown = [text.shown(entry) for entry in line.entries]
            yield line.label, [place.value for place in shown], [entry.best for entry in line.entries], 0
            if any(place.paper for place in shown):
                yield "    paper, Δ", [f"{place.paper} {place.delta}".strip() for place in shown], plain, 0
