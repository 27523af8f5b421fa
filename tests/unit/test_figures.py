"""Figures as specifications with rows: what is drawn, in which colours, and that a file can be made of each."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from report_cells import FA, HS, analysis, cell, sound_cells

from asft.report import charts
from asft.report.records import Column, Metric, Result
from asft.report.writers.figures import Figure, figures, landscape

PLANE = {"kind": "plane", "x": "alignment", "y": "<b>harmful", "steps": [-1, 0, 1], "hs": [[0, 5, 90]] * 3}


def drawn(figure: Figure, tmp_path: Path) -> str:
    return figure.save(tmp_path, "svg").read_text("utf-8")


def test_a_gap_is_no_point_and_no_bar(tmp_path: Path) -> None:
    kept = [c for c in sound_cells() if (c.row, c.column) != ("asft", 0.1)]
    whole, gap = (figures(analysis(cells, paper_table=None))[0] for cells in (sound_cells(), kept))
    missing = [row for row in gap.rows if row["value"] is None]
    assert [(row["series"], row["column"], row["lo"]) for row in missing] == [("AsFT", "p = 0.1", None)] * 2
    for mark in ('opacity="0.7"', '<line [^>]*stroke="#2a78c2"'):
        counts = [len(re.findall(mark, drawn(figure, tmp_path))) for figure in (whole, gap)]
        assert counts[0] - counts[1] == 2, mark


def test_one_run_for_all_columns_is_drawn_along_them_and_untouched_models_are_not() -> None:
    columns = (Column(1, "λ = 1"), Column(10, "λ = 10"))
    cells: list[Result] = [cell("aligned", 1, 30), cell("sft", 80, 190)]
    cells += [cell("asft", 5, 185, lam) for lam in (1, 10)]
    figure = figures(analysis(cells, column_axis="method.lam", columns=columns))[0]
    hs = {(row["series"], row["column"]): row["value"] for row in figure.rows if row["panel"] == "HS, %"}
    assert [hs["SFT", column.label] for column in columns] == [80.0, 80.0]
    assert "aligned model" not in {series for series, _ in hs}


def test_trade_off_shows_each_trained_cell_once_and_joins_those_that_none_beats(tmp_path: Path) -> None:
    _, figure = figures(analysis(sound_cells(seeds=(0, 1))))
    assert figure.name == "trade-off"
    assert Counter(row["series"] for row in figure.rows) == {"SFT": 6, "Safe LoRA": 6, "AsFT": 6}
    points = [(1, 1), (2, 3), (3, 2), (4, 4)]
    made = [{"series": "a", "label": "a", "setting": "", "size": 60, "x": hs, "y": fa} for hs, fa in points]
    image = drawn(Figure("front", "", charts.trade_off({"a": (charts.GREY, "circle")}, HS, FA), made), tmp_path)
    (line,) = re.findall(r'<path [^>]*d="(M[^"]*)"[^>]*stroke-dasharray="2,3"', image)
    assert line.count("L") == 2, "three of the four points are beaten by none"


def test_methods_keep_their_colours_from_store_to_store() -> None:
    small, large = charts.store_styles(["l2", "asft"]), charts.store_styles(["own", "asft", "sft", "bea", "l2"])
    assert list(small) == ["asft", "l2"]
    assert small.items() <= large.items()
    assert charts.store_styles(["own"])["own"] == large["own"]
    known = [charts.method_style(name) for name in (*charts.UNDEFENDED, *charts.DEFENCES)]
    assert len(set(known)) == len(known), "colour and symbol tell any two of ours apart"


def test_a_planes_border_stands_where_it_stops_being_safe() -> None:
    rows = charts.tiles([-1, 0, 1], [[0, 5, 90], [0, 80, 90], [0, 0, 0]])
    borders = {(row["a"], row["b"]): (row["right"], row["top"]) for row in rows}
    assert borders[0, -1] == (True, True)
    assert borders[-1, 0] == (True, False)
    assert borders[1, 0] == (False, True)
    assert sum(right or top for right, top in borders.values()) == 4
    assert (rows[0]["x"], rows[-1]["y2"]) == (-1.5, 1.5)


def test_labels_stay_text_in_a_drawing(tmp_path: Path) -> None:
    image = drawn(Figure("plane", "", *landscape(PLANE)), tmp_path)
    assert "&lt;b&gt;harmful direction" in image
    assert "<b>" not in image


def test_the_library_for_the_page_is_whole() -> None:
    script = charts.library()
    assert "window.vegaEmbed" in script
    assert not re.search(r"^\s*import\s", script, re.M)


@pytest.mark.parametrize("reach", [None, 0.25])
def test_profiles_are_drawn_with_their_reach(reach: float | None, tmp_path: Path) -> None:
    details = {"kind": "epl", "points": [[(-1.0, 90.0), (0.0, 0.0), (1.0, 50.0)]] * 3}
    spec, rows = landscape(details, "random", reach)
    assert [row["faint"] for row in rows] == [False] * 3 + [True] * 6
    image = drawn(Figure("epl", "", spec, rows), tmp_path)
    assert image.count('stroke-dasharray="6,4"') == (2 if reach else 0)
    assert image.count('stroke-dasharray="2,2"') == 1


@pytest.mark.parametrize(("x", "y", "kept"), [(HS, FA, 3), (FA, HS, 3), (HS, HS, 1), (FA, FA, 1)])
def test_the_best_trade_offs_follow_each_metrics_direction(x: Metric, y: Metric, kept: int, tmp_path: Path) -> None:
    rows = [{"series": "a", "label": "a", "setting": "", "size": 60, "x": i, "y": i} for i in (1, 2, 4)]
    image = drawn(Figure("front", "", charts.trade_off({"a": (charts.GREY, "circle")}, x, y), rows), tmp_path)
    lines = re.findall(r'<path [^>]*d="(M[^"]*)"[^>]*stroke-dasharray="2,3"', image)
    assert sum(line.count("L") for line in lines) + 1 == kept
