"""The report's plots as Plotly figures; the page adds the colours of paper and ink, light or dark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from asft.report import text
from asft.report.analysis import Analysis
from asft.report.records import Column
from asft.report.table import Entry

# Mid-tones that keep their contrast on white and near-black; symbols tell methods apart without colour.
PALETTE = (
    ("#2a78c2", "circle"),
    ("#d1580f", "square"),
    ("#1f9a7a", "diamond"),
    ("#b65fa0", "triangle-up"),
    ("#b98b00", "x"),
    ("#5b62c9", "pentagon"),
    ("#c2374a", "star"),
    ("#5f8f1f", "hexagon"),
    ("#8a6a4f", "cross"),
    ("#3d97a8", "triangle-down"),
)
CONTROL_COLOUR = "#858b93"
CONTROL_SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open", "x-open", "star-open")
MARKER_SIZES = (8.0, 15.0)


def report_figures(analysis: Analysis) -> dict[str, dict[str, Any]]:
    """Element id to figure JSON: the HS–FA scatter and both metrics along the columns."""
    figures = {"along-columns": along_columns(analysis)}
    if {"HS", "FA"} <= analysis.metrics.keys():
        figures["trade-off"] = trade_off(analysis)
    return {name: json.loads(figure.to_json()) for name, figure in figures.items()}


def trade_off(analysis: Analysis) -> go.Figure:
    """FA against HS, one point per cell; larger points stand further right in the table."""
    figure = go.Figure()
    for row in analysis.spec.rows:
        points = _points(analysis, row)
        if points.x:
            figure.add_trace(points)
    figure.update_layout(
        template="none",
        height=460,
        margin={"l": 56, "r": 16, "t": 16, "b": 56},
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "itemsizing": "constant"},
        xaxis={"title": {"text": "HS, % (lower is better)"}, "range": [-4, 104], "zeroline": False},
        yaxis={"title": {"text": "FA, % (higher is better)"}, "zeroline": False},
        hovermode="closest",
    )
    return figure


def along_columns(analysis: Analysis) -> go.Figure:
    """Each metric over the columns with 95% intervals; the paper's figures as dotted lines, off at first."""
    spec = analysis.spec
    figure = make_subplots(rows=len(analysis.metrics), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    rows = [row for row in spec.rows if not analysis.untouched(row)]
    for panel, metric in enumerate(analysis.metrics, start=1):
        for row in rows:
            entries = analysis.line(metric, row).entries
            figure.add_trace(_ours(analysis, row, entries, first=panel == 1), row=panel, col=1)
        for row in rows:
            entries = analysis.line(metric, row).entries
            if any(entry.paper is not None for entry in entries):
                figure.add_trace(_paper(analysis, row, entries), row=panel, col=1)
        figure.update_yaxes(
            title={"text": f"{metric}, %"},
            range=_range(analysis, metric, rows),
            zeroline=False,
            row=panel,
            col=1,
        )
    _name_paper_group(figure)
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=_headings(spec.columns))
    figure.update_layout(
        template="none",
        height=300 * len(analysis.metrics) + 80,
        margin={"l": 56, "r": 16, "t": 16, "b": 56},
        legend={"orientation": "h", "y": -0.09, "yanchor": "top"},
        scattermode="group",
        scattergap=0.7,
        hovermode="closest",
    )
    return figure


def _points(analysis: Analysis, row: str) -> go.Scatter:
    spec = analysis.spec
    cells = [
        (record, _size(position, len(spec.columns)))
        for position, column in enumerate(spec.columns[:1] if analysis.spans(row) else spec.columns)
        for record in analysis.at(row, column).records
    ]
    label = escape(spec.label(row))
    return go.Scatter(
        name=label,
        mode="markers",
        x=[record.metrics["HS"].value for record, _ in cells],
        y=[record.metrics["FA"].value for record, _ in cells],
        customdata=[[escape(analysis.column_label(record)), record.seed, record.key[:12]] for record, _ in cells],
        hovertemplate=(
            f"<b>{label}</b>, %{{customdata[0]}}, seed %{{customdata[1]}}<br>"
            "HS %{x:.1f}, FA %{y:.1f}<br>cell %{customdata[2]}<extra></extra>"
        ),
        marker={**_style(analysis, row), "size": [size for _, size in cells], "opacity": 0.85},
        # The untouched models lie far off; shown at once they would press everything else into a corner.
        visible="legendonly" if analysis.untouched(row) else True,
    )


def _ours(analysis: Analysis, row: str, entries: Sequence[Entry], first: bool) -> go.Scatter:
    label, style = escape(analysis.spec.label(row)), _style(analysis, row)
    return go.Scatter(
        name=label,
        legendgroup=row,
        showlegend=first,
        mode="lines+markers" if _ordered(analysis.spec.columns) else "markers",
        x=_headings(analysis.spec.columns),
        y=[entry.ours for entry in entries],
        error_y=_error_bars(entries, style["color"]),
        customdata=[[shown.interval, shown.spread] for shown in map(text.shown, entries)],
        hovertemplate=(f"<b>{label}</b>, %{{x}}<br>%{{y:.1f}} [%{{customdata[0]}}] %{{customdata[1]}}<extra></extra>"),
        marker={**style, "size": 8},
        line={"color": style["color"], "width": 1.5},
    )


def _range(analysis: Analysis, metric: str, rows: Sequence[str]) -> list[float] | None:
    """Just what the intervals span: grouped points would otherwise pull the axis to zero."""
    entries = [entry for entry in analysis.entries if entry.metric.name == metric and entry.row in rows]
    ends = [end for entry in entries for end in (entry.ours, entry.lo, entry.hi) if end is not None]
    if not ends:
        return None
    margin = 0.06 * max(max(ends) - min(ends), 1.0)
    return [min(ends) - margin, max(ends) + margin]


def _error_bars(entries: Sequence[Entry], colour: str) -> dict[str, Any]:
    """Asymmetric bars from each score to the ends of its interval; null where there is none."""

    def reach(entry: Entry, end: float | None) -> float | None:
        return None if entry.ours is None or end is None else abs(end - entry.ours)

    return {
        "type": "data",
        "symmetric": False,
        "array": [reach(entry, entry.hi) for entry in entries],
        "arrayminus": [reach(entry, entry.lo) for entry in entries],
        "color": colour,
        "thickness": 1,
        "width": 2,
    }


def _paper(analysis: Analysis, row: str, entries: Sequence[Entry]) -> go.Scatter:
    label, style = escape(analysis.spec.label(row)), _style(analysis, row)
    hollow = f"{style['symbol'].removesuffix('-open')}-open"
    return go.Scatter(
        name=f"{label}, paper",
        legendgroup="paper",
        showlegend=False,
        mode="lines+markers" if _ordered(analysis.spec.columns) else "markers",
        x=_headings(analysis.spec.columns),
        y=[entry.paper for entry in entries],
        hovertemplate=f"<b>{label}</b> in the paper, %{{x}}<br>%{{y:.2f}}<extra></extra>",
        marker={"color": style["color"], "symbol": hollow, "size": 7},
        line={"color": style["color"], "width": 1, "dash": "dot"},
        visible="legendonly",
    )


def _name_paper_group(figure: go.Figure) -> None:
    """One legend entry that shows and hides all of the paper's lines."""
    of_paper = [trace for trace in figure.data if trace.legendgroup == "paper"]
    if of_paper:
        of_paper[0].update(showlegend=True, name="the paper's figures (dotted)")


def _style(analysis: Analysis, row: str) -> dict[str, Any]:
    spec = analysis.spec
    if row in spec.candidates:
        colour, symbol = PALETTE[spec.candidates.index(row) % len(PALETTE)]
        return {"color": colour, "symbol": symbol, "line": {"width": 0}}
    position = [name for name in spec.rows if name not in spec.candidates].index(row)
    symbol = CONTROL_SYMBOLS[position % len(CONTROL_SYMBOLS)]
    return {"color": CONTROL_COLOUR, "symbol": symbol, "line": {"width": 1.5}}


def _size(position: int, columns: int) -> float:
    small, large = MARKER_SIZES
    return small + (large - small) * position / max(1, columns - 1)


def _headings(columns: Sequence[Column]) -> list[str]:
    """Column labels as text: Plotly reads tags in its strings."""
    return [escape(column.label) for column in columns]


def _ordered(columns: Sequence[Column]) -> bool:
    """Whether the columns are numbers, so that a line between them means something."""
    return all(isinstance(column.value, int | float) for column in columns)
