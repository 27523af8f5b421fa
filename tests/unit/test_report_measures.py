"""Tables of measured values: places, intervals, the paper's figures, and what the writers make of them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from asft.report.measure_table import MeasureRecord, MeasureSpec, MeasureTable, MissingMeasure, number
from asft.report.paper import paper_measure
from asft.report.records import Column
from asft.report.writers.measure_print import draw_all, write_measures_for_print, write_static
from asft.report.writers.measures import print_measures, render_measures, write_measures

PLANE = {"kind": "plane", "x": "alignment", "y": "<b>harmful</b>", "steps": [-1, 0, 1], "hs": [[0, 5, 90]] * 3}
LINES = {"kind": "lines", "along": "alignment", "steps": [-1, 0, 1], "hs": [90, 0, 3], "random": [[1, 0, 2], [4, 0, 9]]}


def table(*cells: MeasureRecord | MissingMeasure, **changes: object) -> MeasureTable:
    fields: dict[str, object] = {
        "name": "table7",
        "title": "Table 7: lengths & <tags>",
        "column_title": "model",
        "columns": (Column("tiny_llama", "tiny_llama", "llama2_7b"), Column("tiny_qwen2", "tiny_qwen2", "qwen2_7b")),
        "rows": {"alignment": "alignment direction", "random": "random directions"},
        "headline": {"alignment": "epl", "random": "epl"},
        "paper_rows": {"alignment": "aligned"},
        "paper_table": "table7",
        "command": "asft landscape experiment=table7",
        "versions": {"torch": "2.13.0"},
    }
    return MeasureTable(MeasureSpec(**(fields | changes)), cells)  # type: ignore[arg-type]


def record(row: str, column: str | None, value: float, seed: int = 0, **changes: object) -> MeasureRecord:
    fields: dict[str, object] = {
        "interval": None,
        "details": {},
        "seconds": 2.0,
        "values": {"epl": value, "ahead": 1.0},
    }
    fields |= changes
    return MeasureRecord(key=f"{row}{column}{seed}", row=row, column=column, seed=seed, **fields)  # type: ignore[arg-type]


def test_seeds_are_averaged_with_students_interval() -> None:
    cells = [record("alignment", "tiny_llama", value, seed) for seed, value in enumerate((0.1, 0.2, 0.3))]
    entry = table(*cells).entries[0]
    assert entry.value == pytest.approx(0.2)
    assert entry.lo == pytest.approx(0.2 - 4.302653 * 0.1 / 3**0.5)
    assert entry.paper == 0.1287


def test_two_cells_at_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match="two cells for row alignment, tiny_llama, seed 0"):
        table(record("alignment", "tiny_llama", 0.1), record("alignment", "tiny_llama", 0.2))


def test_a_failure_stays_in_its_own_column() -> None:
    found = table(
        MissingMeasure("alignment", "tiny_llama", 0, "failed"), MissingMeasure("alignment", "tiny_qwen2", 0, "missing")
    )
    assert [entry.status for entry in found.row_entries("alignment")] == ["failed", "missing"]


def test_one_seed_keeps_the_measures_own_interval_and_spanning_rows_stand_in_every_column() -> None:
    found = table(record("random", None, 0.4, interval=(0.1, 0.9, "range")))
    assert [(e.value, e.lo, e.hi) for e in found.row_entries("random")] == [(0.4, 0.1, 0.9)] * 2
    assert [e.status for e in found.row_entries("alignment")] == ["missing", "missing"]


def test_a_failure_is_told_with_its_reason() -> None:
    found = table(MissingMeasure("alignment", "tiny_llama", 0, "failed", "no memory"))
    assert found.gaps == ("alignment direction, tiny_llama: failed (no memory)",)
    assert found.entries[0].status == "failed"


def test_the_papers_figures_of_both_tables_are_found() -> None:
    assert paper_measure("table1", "harmful", 50) == 5.96e-4
    assert paper_measure("table1", "random", 500) == 8.489e-3
    assert paper_measure("table1", "benign", 50) is None
    assert paper_measure("table7", "harmful", "gemma2_9b") == 0.0046
    assert paper_measure("table7", "harmful", "elsewhere") is None
    assert paper_measure(None, "harmful", 50) is None


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (0.1234567, 6.3e-4, 0.0, 12.0, None)] == ["0.123", "6.30e-04", "0", "12", ""]


def test_every_writer_writes(tmp_path: Path) -> None:
    found = table(
        record("alignment", "tiny_llama", 0.25, details=PLANE, values={"epl": 0.25, "cosine": 0.5}),
        record("random", None, 0.5, details=LINES),
    )
    paths = write_measures(found, tmp_path)
    page = paths.html.read_text()
    assert "lengths &amp; &lt;tags&gt;" in page
    assert "<b>harmful</b>" not in page.split("<script", 1)[0]
    assert "0.25" in paths.markdown.read_text()
    assert r"lengths \& \textless{}tags\textgreater{}" in paths.latex.read_text()
    assert "0.25" in paths.csv.read_text()
    images = sorted(path.name for path in tmp_path.glob("*.[sp][vn]g"))
    assert images == ["00_plane.png", "00_plane.svg", "01_lines.png", "01_lines.svg"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in images)


def test_lengths_are_drawn_over_their_columns(tmp_path: Path) -> None:
    line = {"kind": "epl", "points": [[(-0.5, 20.0), (0.0, 0.0), (1.0, 90.0)]]}
    several = {"kind": "epl", "points": line["points"] * 3}
    found = table(record("alignment", "tiny_llama", 0.5, details=line), record("random", None, 0.5, details=several))
    ((name, _, figure),) = draw_all(found)
    assert name == "epl-profiles"
    axes = figure.axes
    assert [ax.get_title() for ax in axes] == ["tiny_llama", "tiny_qwen2"]
    # The threshold's line beside those of the directions: the random ones stand in both columns.
    assert [len(ax.lines) - 1 for ax in axes] == [4, 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["alignment direction", "random directions"]
    assert {path.name for path in write_static(found, tmp_path)} == {"epl-profiles.svg", "epl-profiles.png"}


def test_cosines_are_drawn_beside_the_papers_with_gaps_left_out(tmp_path: Path) -> None:
    columns = (Column(10, "n = 10"), Column(50, "n = 50"))
    cosines = {"alignment": "abs_cos", "random": "abs_cos"}
    found = table(
        record("alignment", 50, 0.1, details={"null": [0.1]}, values={"abs_cos": 0.1}, interval=(0.05, 0.3, "range")),
        columns=columns,
        headline=cosines,
        paper_table="table1",
        paper_rows={"alignment": "harmful"},
    )
    ((name, _, figure),) = draw_all(found)
    (axes,) = figure.axes
    ours, paper = axes.containers[0].lines[0], next(line for line in axes.lines if line.get_linestyle() == ":")
    assert name == "cosines"
    assert [tuple(point) for point in ours.get_xydata()] == [(1.0, 0.1)]
    assert list(paper.get_ydata()) == [paper_measure("table1", "harmful", 10), paper_measure("table1", "harmful", 50)]
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    assert list(bar[:, 1]) == pytest.approx([0.05, 0.3])


def test_the_same_figures_go_into_a_paper(tmp_path: Path) -> None:
    found = table(record("alignment", "tiny_llama", 0.25, details=PLANE), record("random", None, 0.5, details=LINES))
    write_measures(found, tmp_path)
    document, table_file, *figures = write_measures_for_print(found, tmp_path, "tex")
    assert [path.name for path in figures] == ["00_plane.pdf", "01_lines.pdf"]
    assert b"/Type3" not in figures[1].read_bytes(), "conferences refuse Type 3 fonts"
    assert table_file.exists()
    assert not re.search("[α-ω]", table_file.read_text()), "LaTeX knows no bare Greek letters"
    named = re.findall(r"\\includegraphics\[.*\]\{(.*)\}", document.read_text())
    assert named == ["00_plane", "01_lines"]
    assert write_measures_for_print(found, tmp_path, "pdf") == figures


def test_the_terminal_shows_value_range_and_paper() -> None:
    out = io.StringIO()
    found = table(record("alignment", "tiny_llama", 0.25), record("random", None, 0.5, interval=(0.1, 0.9, "range")))
    print_measures(found, Console(file=out, width=80))
    text = out.getvalue()
    assert "0.25" in text
    assert "0.1–0.9" in text
    assert "0.129" in text
    assert max(map(len, text.splitlines())) <= 80


def test_markdown_names_what_is_missing() -> None:
    text = render_measures(table(record("random", None, 0.5), MissingMeasure("alignment", "tiny_qwen2", 0, "missing")))
    assert "- alignment direction, tiny\\_qwen2: missing" in text
