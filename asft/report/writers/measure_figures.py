"""Plots of landscapes, lines, perturbation lengths and cosines on the page.

:mod:`asft.report.writers.measure_print` draws the same for print.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

import plotly.graph_objects as go

from asft.measures.epl import SAFE_HS
from asft.report.analysis import Analysis
from asft.report.records import CellRecord

COLOURS = ("#2a78c2", "#d1580f", "#1f9a7a", "#b65fa0", "#b98b00", "#5b62c9")
_MAP = "Viridis"


def page_figures(table: Analysis) -> dict[str, dict[str, Any]]:
    """Element id to Plotly figure JSON, in table order."""
    figures: dict[str, go.Figure] = {}
    for record in table.records:
        kind, name = record.details.get("kind"), f"m-{record.key}"
        if kind == "plane":
            figures[f"{name}-map"] = _contours(table, record)
            figures[f"{name}-surface"] = _surface(table, record)
        elif kind == "lines":
            figures[name] = _lines(table, record)
    if any(record.details.get("kind") == "epl" for record in table.records):
        figures["epl-profiles"] = _profiles(table)
    if any("null" in record.details for record in table.records):
        figures["cosines"] = _cosines(table)
    return {name: json.loads(figure.to_json()) for name, figure in figures.items()}


def title_of(table: Analysis, record: CellRecord) -> str:
    """Row, column and seed of a record in words."""
    column = "" if record.column is None else f", {table.column_label(record)}"
    return f"{table.spec.rows[record.row]}{column}, seed {record.seed}"


def _contours(table: Analysis, record: CellRecord) -> go.Figure:
    details = record.details
    figure = go.Figure(
        [
            go.Heatmap(
                x=details["steps"],
                y=details["steps"],
                z=details["hs"],
                zmin=0,
                zmax=100,
                colorscale=_MAP,
                colorbar={"title": "HS %"},
                hovertemplate="α %{x:.3g}, β %{y:.3g}<br>HS %{z:.1f}<extra></extra>",
            ),
            go.Contour(
                x=details["steps"],
                y=details["steps"],
                z=details["hs"],
                contours={"start": SAFE_HS, "end": SAFE_HS, "size": 1, "coloring": "none"},
                line={"color": "#ffffff", "width": 2},
                showscale=False,
                showlegend=False,
                hoverinfo="skip",
            ),
            _centre(),
        ]
    )
    figure.update_yaxes(scaleanchor="x", constrain="domain")
    figure.update_xaxes(constrain="domain")
    return _titled(figure, table, record, _axis(details["x"], "α"), _axis(details["y"], "β"))


def _surface(table: Analysis, record: CellRecord) -> go.Figure:
    details = record.details
    surface = go.Surface(
        x=details["steps"],
        y=details["steps"],
        z=details["hs"],
        cmin=0,
        cmax=100,
        colorscale=_MAP,
        colorbar={"title": "HS %"},
    )
    figure = go.Figure([surface])
    figure.update_layout(
        title=_heading(table, record),
        height=480,
        margin={"l": 0, "r": 0, "t": 60, "b": 0},
        scene={
            "xaxis": {"title": _axis(details["x"], "α")},
            "yaxis": {"title": _axis(details["y"], "β")},
            "zaxis": {"title": "HS %", "range": [0, 100]},
        },
    )
    return figure


def _lines(table: Analysis, record: CellRecord) -> go.Figure:
    details = record.details
    figure = go.Figure()
    for index, line in enumerate(details["random"]):
        figure.add_scatter(
            x=details["steps"],
            y=line,
            mode="lines",
            line={"color": "#858b93", "width": 1},
            opacity=0.5,
            name="random directions",
            legendgroup="random",
            showlegend=index == 0,
        )
    figure.add_scatter(
        x=details["steps"],
        y=details["hs"],
        mode="lines+markers",
        line={"color": COLOURS[0], "width": 3},
        name=f"{escape(details['along'])} direction",
    )
    return _titled(figure, table, record, "α", "HS %")


def _profiles(table: Analysis) -> go.Figure:
    """HS against α along every direction of Table 7, the random ones in grey."""
    figure = go.Figure()
    for index, record in enumerate(r for r in table.records if r.details.get("kind") == "epl"):
        many = len(record.details["points"]) > 1
        for k, points in enumerate(record.details["points"]):
            alphas, scores = zip(*points, strict=True)
            figure.add_scatter(
                x=alphas,
                y=scores,
                mode="lines" if many else "lines+markers",
                name=escape(title_of(table, record)),
                legendgroup=record.key,
                showlegend=k == 0,
                opacity=0.4 if many else 1,
                line={"color": "#858b93" if many else COLOURS[index % len(COLOURS)], "width": 1 if many else 2},
            )
    figure.update_layout(
        height=640,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title="α",
        yaxis_title="HS %",
        hovermode="closest",
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
    )
    return figure


def _cosines(table: Analysis) -> go.Figure:
    """|cos| by row over the columns, above the range of 95% of random updates."""
    figure = go.Figure()
    headings = [column.label for column in table.spec.columns]
    for index, (row, label) in enumerate(table.spec.rows.items()):
        entries = table.line("abs_cos", row).entries
        colour = COLOURS[index % len(COLOURS)]
        figure.add_scatter(
            x=headings,
            y=[entry.ours for entry in entries],
            mode="lines+markers",
            name=escape(label),
            line={"color": colour},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [entry.hi - entry.ours if entry.hi and entry.ours else None for entry in entries],
                "arrayminus": [entry.ours - entry.lo if entry.lo and entry.ours else None for entry in entries],
            },
        )
        if any(entry.paper is not None for entry in entries):
            figure.add_scatter(
                x=headings,
                y=[entry.paper for entry in entries],
                mode="lines+markers",
                name=f"{escape(label)}, paper",
                line={"color": colour, "dash": "dot"},
                visible="legendonly",
            )
    figure.update_layout(height=460, yaxis={"type": "log", "title": "|cos|"}, xaxis_title=table.spec.column_title)
    return figure


def _titled(figure: go.Figure, table: Analysis, record: CellRecord, x: str, y: str) -> go.Figure:
    figure.update_layout(
        title=_heading(table, record),
        height=460,
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        xaxis={"title": x},
        yaxis={"title": y},
    )
    return figure


def _heading(table: Analysis, record: CellRecord) -> dict[str, Any]:
    """The title in two lines, since Plotly breaks none and a phone has room for some forty letters."""
    row, _, rest = title_of(table, record).partition(", ")
    return {"text": f"{escape(row)}<br>{escape(rest)}", "font": {"size": 14}}


def _centre() -> go.Scatter:
    return go.Scatter(
        x=[0],
        y=[0],
        mode="markers",
        marker={"symbol": "cross", "size": 9, "color": "#ffffff", "line": {"color": "#000000", "width": 1}},
        hovertemplate="the aligned model<extra></extra>",
        showlegend=False,
    )


def _axis(direction: str, symbol: str) -> str:
    name = direction if len(direction) < 24 else f"…{direction[-22:]}"
    return f"{symbol}, {escape(name)} direction"
