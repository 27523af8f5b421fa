"""A table's figures: rows for the specifications of :mod:`asft.report.charts`, for the page and for print alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asft.report import charts
from asft.report.analysis import Analysis
from asft.report.records import Result

SIZES = 60.0, 220.0  # of points: larger ones stand further right in the table


@dataclass(frozen=True)
class Figure:
    """A specification with its rows; ``name`` names its files and ``caption`` says what is seen."""

    name: str
    caption: str
    spec: charts.Spec
    rows: charts.Rows

    def save(self, folder: Path, suffix: str) -> Path:
        """Draws it into ``folder``, as ``svg``, ``png`` or ``pdf``."""
        return charts.save(self.spec, self.rows, folder / f"{self.name}.{suffix}")


def save_all(drawn: Iterable[Figure], folder: Path, *suffixes: str) -> list[Path]:
    """Draws each figure once a suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    return [figure.save(folder, suffix) for figure in drawn for suffix in suffixes]


def figures(analysis: Analysis) -> list[Figure]:
    """Of scores: all along the columns, and safety against usefulness. Of what was measured: each place and all."""
    if analysis.health:
        labels = {row: label for row, label in analysis.spec.rows.items() if not analysis.untouched(row)}
        caption = f"{' and '.join(analysis.metrics)} along {analysis.spec.column_title}, with 95% intervals; dotted, "
        styles = charts.method_styles(labels)
        drawn = [_along(analysis, "along-columns", f"{caption}the paper's figures.", styles, list(labels))]
        return [*drawn, _trade_off(analysis, labels)] if {"HS", "FA"} <= analysis.metrics.keys() else drawn
    drawn = list(place_figures(analysis))
    if any(record.details.get("kind") == "epl" for record in analysis.results):
        drawn.append(_lengths(analysis))
    if any("null" in record.details for record in analysis.results):
        caption = "The range of random updates as bars; dotted, the paper's figures."
        styles = charts.other_styles(analysis.spec.rows.values())
        drawn.append(_along(analysis, "cosines", caption, styles, list(analysis.spec.rows), log=True))
    return drawn


def place_figures(analysis: Analysis) -> Iterator[Figure]:
    """The planes and lines alone, one figure each."""
    for index, record in enumerate(analysis.results):
        if (kind := record.details.get("kind")) in {"plane", "lines"}:
            yield Figure(f"{index:02d}_{kind}", _title(analysis, record), *landscape(record.details))


def landscape(details: dict[str, Any], name: str = "", reach: float | None = None) -> tuple[charts.Spec, charts.Rows]:
    """What one measure found around a model: a plane, lines, or the profiles behind a perturbation length.

    ``name`` is the direction of profiles, ``reach`` the length found.
    """
    if details["kind"] == "plane":
        x, y = (f"{symbol}, {Path(details[axis]).name} direction" for symbol, axis in (("α", "x"), ("β", "y")))
        return charts.plane(x, y), charts.tiles(details["steps"], details["hs"])
    if details["kind"] == "lines":
        lines = [list(zip(details["steps"], hs, strict=True)) for hs in (details["hs"], *details["random"])]
        first, others = f"{Path(details['along']).name} direction", "random directions"
    else:
        lines, first, others = details["points"], f"{name} direction", f"{name} direction"
    labels = [first, *([others] * (len(lines) - 1))]
    rows = _profiles(lines, labels, [position > 0 for position in range(len(lines))])
    return charts.profiles(_profile_styles([first], [others]), reach=reach), rows


def table_picture(analysis: Analysis) -> Figure:
    """The table as it would be set with booktabs: ours above the paper's, the best in bold."""
    spec, lines, rules = analysis.spec, 0, [0]
    rows: charts.Rows = []

    def put(label: str, cells: Sequence[str], bold: Sequence[bool] = ()) -> None:
        nonlocal lines
        for column, shown in enumerate((label, *cells), start=-1):
            strong = column >= 0 and bool(bold) and bold[column]
            rows.append({"line": lines, "column": column, "text": shown, "bold": strong})
        lines += 1

    put(spec.column_title, [column.label for column in spec.columns])
    for name, metric in analysis.metrics.items():
        rules.append(lines)
        put(metric.title, [])
        for line in analysis.lines(name):
            put(line[0].label, [entry.text for entry in line], [entry.best for entry in line])
            if any(entry.paper_text for entry in line):
                put("\u2003paper, Δ", [f"{entry.paper_text} {entry.delta_text}".rstrip() for entry in line])
    return Figure("table", spec.title, charts.typeset(len(spec.columns), [*rules, lines]), rows)


def _along(
    analysis: Analysis, name: str, caption: str, styles: charts.Styles, shown: Sequence[str], log: bool = False
) -> Figure:
    """Every metric of the rows ``shown`` over the columns, a panel each."""
    spec, panels = analysis.spec, {n: f"{n}, {m.unit}".rstrip(", ") for n, m in analysis.metrics.items()}
    rows = [
        {
            "panel": panels[metric],
            "column": column.label,
            "series": entry.label,
            "value": entry.ours,
            **{name: getattr(entry, name) for name in ("lo", "hi", "paper")},
            "note": entry.range_text,
        }
        for metric in analysis.metrics
        for line in analysis.lines(metric)
        if line[0].row in shown
        for column, entry in zip(spec.columns, line, strict=True)
    ]
    joined = all(isinstance(column.value, int | float) for column in spec.columns)
    columns = [column.label for column in spec.columns]
    drawn = charts.along(styles, columns, spec.column_title, panels=list(panels.values()), joined=joined, log=log)
    return Figure(name, caption, drawn, rows)


def _trade_off(analysis: Analysis, labels: dict[str, str]) -> Figure:
    """A point a cell, without the untouched models: they lie far off and would press the others into a corner."""
    columns = [column.label for column in analysis.spec.columns]
    small, large = SIZES
    shown = [result for result in analysis.results if result.row in labels and {"HS", "FA"} <= result.metrics.keys()]
    places = [(result, analysis.column_label(result)) for result in shown]
    rows = [
        {
            "series": labels[result.row],
            "x": result.metrics["HS"].value,
            "y": result.metrics["FA"].value,
            "label": _title(analysis, result),
            "setting": column,
            "size": small + (large - small) * (column in columns and columns.index(column)) / max(1, len(columns) - 1),
        }
        for result, column in places
    ]
    caption = (
        "Safety against usefulness, one point per cell; up and to the left is better. Larger points stand further "
        f"right in the table ({analysis.spec.column_title}); dotted, the best trade-offs of each column. The untouched "
        "models are left out."
    )
    spec = charts.trade_off(charts.method_styles(labels), analysis.metrics["HS"], analysis.metrics["FA"])
    return Figure("trade-off", caption, spec, rows)


def _lengths(analysis: Analysis) -> Figure:
    """HS against α along every direction, a panel for each column; a row of several directions is grey."""
    spec, many = analysis.spec, set()
    rows: charts.Rows = []
    for column in spec.columns:
        for row, label in spec.rows.items():
            for record in analysis.at(row, column):
                lines = record.details.get("points", [])
                if len(lines) > 1:
                    many.add(label)
                rows += _profiles(lines, [label] * len(lines), [len(lines) > 1] * len(lines), column.label)
    styles = _profile_styles([label for label in spec.rows.values() if label not in many], sorted(many))
    drawn = charts.profiles(styles, [column.label for column in spec.columns])
    return Figure("epl-profiles", "HS along each direction, the safe threshold dotted.", drawn, rows)


def _profiles(
    lines: Sequence[Sequence[Sequence[float]]], labels: Sequence[str], faint: Sequence[bool], panel: str = ""
) -> charts.Rows:
    return [
        {"panel": panel, "line": f"{panel} {label} {number}", "series": label, "x": x, "hs": hs, "faint": behind}
        for number, (points, label, behind) in enumerate(zip(lines, labels, faint, strict=True))
        for x, hs in points
    ]


def _profile_styles(named: Sequence[str], many: Sequence[str]) -> charts.Styles:
    """Colours in order; grey for what stands for many directions."""
    return dict.fromkeys(many, (charts.GREY, "circle")) | charts.other_styles(named)


def _title(analysis: Analysis, record: Result) -> str:
    """Row, column and seed of a record in words."""
    column = "" if record.column is None else f", {analysis.column_label(record)}"
    return f"{analysis.spec.label(record.row)}{column}, seed {record.seed}"
