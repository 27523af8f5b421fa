"""Plots of landscapes, lines, perturbation lengths and cosines for print: what the page shows, by Matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asft.measures.epl import SAFE_HS
from asft.report.analysis import Analysis
from asft.report.records import CellRecord
from asft.report.writers.camera import COLUMN_WIDTH, STYLE
from asft.report.writers.latex import render_document
from asft.report.writers.measure_figures import COLOURS, title_of

_WIDTH, _ASPECT = 4.2, 3.4 / 4.2  # inches, and height by width
_GREY = "0.6"
_ACROSS = 2  # axes beside one another
_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # the same numbers give the same file


def draw_all(table: Analysis, width: float = _WIDTH) -> Iterator[tuple[str, str, Figure]]:
    """File name, what it shows, and figure: planes and lines in table order, then lengths and cosines as a whole."""
    yield from draw_places(table, width)
    if any(record.details.get("kind") == "epl" for record in table.records):
        yield "epl-profiles", "HS along each direction, the safe threshold dotted", _profiles(table, width)
    if any("null" in record.details for record in table.records):
        yield "cosines", "the range of random updates as bars; dotted, the paper's figures", _cosines(table, width)


def draw_places(table: Analysis, width: float = _WIDTH) -> Iterator[tuple[str, str, Figure]]:
    """The planes and lines alone, one figure each."""
    for index, record in enumerate(table.records):
        kind = str(record.details.get("kind"))
        if kind not in {"plane", "lines"}:
            continue
        figure = Figure(figsize=(width, width * _ASPECT), layout="constrained")
        axes = figure.subplots()
        (_draw_plane if kind == "plane" else _draw_lines)(axes, record)
        axes.set_title(title_of(table, record), fontsize=9)
        yield f"{index:02d}_{kind}", title_of(table, record), figure


def write_static(table: Analysis, folder: Path) -> list[Path]:
    """Every figure of the table as SVG and PNG."""
    return [path for name, _, figure in draw_all(table) for path in saved(figure, folder / name, ("svg", "png"))]


def write_measures_for_print(table: Analysis, folder: Path, kind: str) -> list[Path]:
    """The figures as PDFs in the style of the camera figures; for ``tex`` a document with them and the table."""
    with rc_context(STYLE):
        drawn = [
            (saved(figure, folder / name, ("pdf",))[0], shows) for name, shows, figure in draw_all(table, COLUMN_WIDTH)
        ]
    paths = [path for path, _ in drawn]
    if kind != "tex":
        return paths
    document = folder / "paper.tex"
    figures = {path.stem: shows for path, shows in drawn}
    document.write_text(render_document(table.spec.title, figures), encoding="utf-8")
    return [document, folder / "table.tex", *paths]


def saved(figure: Figure, path: Path, formats: Sequence[str]) -> list[Path]:
    """Writes the figure in every format; ``path`` is without a suffix."""
    targets = [path.with_name(f"{path.name}.{suffix}") for suffix in formats]
    for target in targets:
        figure.savefig(target, dpi=130, metadata=_UNDATED.get(target.suffix))
    return targets


def _draw_plane(axes: Axes, record: CellRecord) -> None:
    details = record.details
    steps, hs = np.asarray(details["steps"]), np.asarray(details["hs"])
    filled = axes.pcolormesh(steps, steps, hs, vmin=0, vmax=100, cmap="viridis", shading="nearest")
    if hs.min() <= SAFE_HS < hs.max():
        axes.contour(steps, steps, hs, levels=[SAFE_HS], colors="white", linewidths=1.2)
    axes.plot(0, 0, marker="+", color="white", markersize=9)
    axes.set_xlabel(f"α, {Path(details['x']).name} direction")
    axes.set_ylabel(f"β, {Path(details['y']).name} direction")
    axes.figure.colorbar(filled, ax=axes, label="HS %")


def _draw_lines(axes: Axes, record: CellRecord) -> None:
    details = record.details
    for label, line in _labelled(details["random"]):
        axes.plot(details["steps"], line, color=_GREY, linewidth=0.7, alpha=0.6, label=label)
    axes.plot(details["steps"], details["hs"], color=COLOURS[0], linewidth=2, label=f"{details['along']} direction")
    axes.set_xlabel("α")
    axes.set_ylabel("HS %")
    axes.set_ylim(-2, 102)
    axes.legend(fontsize=7)


def _labelled(lines: list[list[float]]) -> Iterator[tuple[str | None, list[float]]]:
    for index, line in enumerate(lines):
        yield "random directions" if index == 0 else None, line


def _profiles(table: Analysis, width: float) -> Figure:
    """HS against α along every direction, axes for each column; a row of several directions is grey."""
    columns = table.spec.columns
    across = min(_ACROSS, len(columns))
    down = ceil(len(columns) / across)
    figure = Figure(figsize=(width, width * (0.2 + 0.5 * down)), layout="constrained")
    places = list(figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat)
    for axes, column in zip(places, columns, strict=False):
        for index, (row, label) in enumerate(table.spec.rows.items()):
            for record in table.at(row, column).records:
                _draw_profile(axes, record, label, COLOURS[index % len(COLOURS)])
        axes.axhline(SAFE_HS, color="black", linestyle=":", linewidth=0.7)
        axes.set_title(column.label, fontsize=9)
        axes.set_ylim(-2, 102)
    for axes in places[len(columns) :]:
        axes.set_visible(False)
    for axes in places[-across:]:
        axes.set_xlabel("α")
    for axes in places[::across]:
        axes.set_ylabel("HS %")
    _legend_below(figure, places[: len(columns)])
    return figure


def _draw_profile(axes: Axes, record: CellRecord, label: str, colour: str) -> None:
    lines = record.details["points"]
    many = len(lines) > 1
    colour, width, alpha, order = (_GREY, 0.7, 0.6, 1) if many else (colour, 1.5, 1.0, 2)
    for points in lines:
        axes.plot(*zip(*points, strict=True), label=label, color=colour, linewidth=width, alpha=alpha, zorder=order)


def _cosines(table: Analysis, width: float) -> Figure:
    """|cos| by row over the columns with its interval, and the paper's."""
    figure = Figure(figsize=(width, width * _ASPECT), layout="constrained")
    axes = figure.subplots()
    headings = [column.label for column in table.spec.columns]
    for index, (row, label) in enumerate(table.spec.rows.items()):
        entries, colour = table.line("abs_cos", row).entries, COLOURS[index % len(COLOURS)]
        done = [(k, entry, entry.ours) for k, entry in enumerate(entries) if entry.ours is not None]
        reach = [[abs(value - end) if (end := entry.lo) is not None else 0.0 for _, entry, value in done]]
        reach += [[abs(end - value) if (end := entry.hi) is not None else 0.0 for _, entry, value in done]]
        places, values = [k for k, _, _ in done], [value for _, _, value in done]
        axes.errorbar(places, values, yerr=reach, color=colour, marker="o", label=label, elinewidth=0.7, capsize=2)
        printed = [(k, entry.paper) for k, entry in enumerate(entries) if entry.paper is not None]
        if printed:
            axes.plot(*zip(*printed, strict=True), color=colour, linestyle=":", linewidth=0.9, label=f"{label}, paper")
    axes.set_yscale("log")
    axes.set_xticks(range(len(headings)), headings, rotation=30 if len(headings) > _ACROSS else 0)
    axes.set_xlabel(table.spec.column_title)
    axes.set_ylabel("|cos|")
    _legend_below(figure, [axes])
    return figure


def _legend_below(figure: Figure, places: Sequence[Axes]) -> None:
    """One legend for all axes, each label once."""
    named = {label: handle for axes in places for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, fontsize=7)
