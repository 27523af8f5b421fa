"""Tables of measured values: places, intervals, the paper's figures, and what the writers make of them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from asft.metrics.base import Interval
from asft.report import charts
from asft.report.analysis import Analysis
from asft.report.records import Column, Metric, MetricValue, Result, TableSpec
from asft.report.table import number, paper_value
from asft.report.writers.figures import figures, save_all
from asft.report.writers.terminal import print_analysis
from asft.report.writers.write import write_for_print, write_report

PLANE = {"kind": "plane", "x": "alignment", "y": "<b>harmful</b>", "steps": [-1, 0, 1], "hs": [[0, 5, 90]] * 3}
LINES = {"kind": "lines", "along": "alignment", "steps": [-1, 0, 1], "hs": [90, 0, 3], "random": [[1, 0, 2], [4, 0, 9]]}


EPL = Metric("epl", "the safe length")


def table(*cells: Result, **changes: object) -> Analysis:
    fields: dict[str, object] = {
        "name": "table7",
        "title": "Table 7: lengths & <tags>",
        "column_title": "model",
        "columns": (Column("tiny_llama", "tiny_llama", "llama2_7b"), Column("tiny_qwen2", "tiny_qwen2", "qwen2_7b")),
        "rows": {"alignment": "alignment direction", "random": "random directions"},
        "controls": (),
        "undefended": None,
        "compare_to": (),
        "metrics": ("epl",),
        "paper_table": "table7",
        "paper_rows": {"alignment": "aligned"},
        "command": "asft landscape experiment=table7",
    }
    return Analysis(TableSpec(**(fields | changes)), cells)


def record(
    row: str, column: str | int | None, value: float, seed: int = 0, metric: Metric = EPL, **changes: object
) -> Result:
    metrics = {metric.name: MetricValue(metric, value, interval=changes.pop("interval", None))}
    made = ({"torch": "2.13.0"},)
    return Result(f"{row}{column}{seed}", row, column, seed, metrics=metrics, seconds=2.0, made_with=made, **changes)


def test_seeds_are_averaged_with_students_interval() -> None:
    cells = [record("alignment", "tiny_llama", value, seed) for seed, value in enumerate((0.1, 0.2, 0.3))]
    entry = table(*cells).entries[0]
    assert entry.ours == pytest.approx(0.2)
    assert entry.lo == pytest.approx(0.2 - 4.302653 * 0.1 / 3**0.5)
    assert entry.lo < 0, "only what is in percent is cut"
    assert entry.paper == 0.1287


def test_a_failure_stays_in_its_own_column_and_is_told_with_its_reason() -> None:
    found = table(
        Result("a", "alignment", "tiny_llama", 0, "failed", "no memory", awaited=("epl",)),
        Result("b", "alignment", "tiny_qwen2", 0, "missing", "", awaited=("epl",)),
    )
    assert [entry.status for entry in found.lines("epl")[0]] == ["failed", "missing"]
    assert found.gaps[0] == "failed (no memory): alignment direction, tiny_llama"


def test_one_seed_keeps_the_measures_own_interval_and_spanning_rows_stand_in_every_column() -> None:
    found = table(record("random", None, 0.4, interval=Interval(0.1, 0.9, "range")))
    alignment, random = found.lines("epl")
    assert [(e.ours, e.lo, e.hi, e.interval) for e in random] == [(0.4, 0.1, 0.9, "range")] * 2
    assert [e.status for e in alignment] == ["missing", "missing"]
    spanning = table(record("alignment", None, 0.4)).lines("epl")[0]
    assert [(entry.ours, entry.paper) for entry in spanning] == [(0.4, 0.1287), (0.4, 0.6594)]


def test_numbers_have_three_digits() -> None:
    shown = [number(value, EPL) for value in (0.1234567, 6.3e-4, 0.0, 12.0, None)]
    assert shown == ["0.123", "6.30e-04", "0", "12", ""]


def test_every_writer_writes(tmp_path: Path) -> None:
    wide = Interval(0.1, 0.9, "range")
    found = table(
        record("alignment", "tiny_llama", 0.25, details=PLANE, extra={"cosine": 0.5}),
        record("random", None, 0.5, details=LINES, interval=wide),
    )
    write_report(found, tmp_path)
    written = (tmp_path / "table.md").read_text()
    assert "| alignment direction | 0.25 · paper 0.129 |" in written
    assert "Differences" not in written, "nothing is compared"
    assert r"lengths \& \textless{}tags\textgreater{}" in (tmp_path / "table.tex").read_text()
    assert "0.25" in (tmp_path / "table.csv").read_text()
    assert (tmp_path / "values.csv").read_text().splitlines()[0] == "row,column,seed,epl,cosine,seconds"
    images = sorted(path.name for path in tmp_path.glob("*.[sp][vn]g"))
    assert images == ["00_plane.png", "00_plane.svg", "01_lines.png", "01_lines.svg"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in images)

    print_analysis(found, Console(file=(out := io.StringIO()), width=80))
    assert all(words in out.getvalue() for words in ("0.25", "0.1–0.9", "0.129"))
    assert max(map(len, out.getvalue().splitlines())) <= 80

    document, table_file, *figures = write_for_print(found, tmp_path, "tex")
    assert [path.name for path in figures] == ["00_plane.pdf", "01_lines.pdf"]
    assert b"/Type3" not in figures[1].read_bytes(), "conferences refuse Type 3 fonts"
    assert not re.search("[α-ω]", table_file.read_text()), "LaTeX knows no bare Greek letters"
    named = re.findall(r"\\includegraphics\[.*\]\{(.*)\}", document.read_text())
    assert named == ["00_plane", "01_lines"]
    assert write_for_print(found, tmp_path, "pdf") == figures


def test_lengths_are_drawn_over_their_columns(tmp_path: Path) -> None:
    line = {"kind": "epl", "points": [[(-0.5, 20.0), (0.0, 0.0), (1.0, 90.0)]]}
    several = {"kind": "epl", "points": line["points"] * 3}
    found = table(record("alignment", "tiny_llama", 0.5, details=line), record("random", None, 0.5, details=several))
    (figure,) = figures(found)
    assert figure.name == "epl-profiles"
    lines = {(row["panel"], row["series"], row["line"]) for row in figure.rows}
    counts = [sum(panel == column for panel, _, _ in lines) for column in ("tiny_llama", "tiny_qwen2")]
    assert counts == [4, 3], "the random directions stand in both columns"
    scale = figure.spec["spec"]["layer"][0]["encoding"]["color"]["scale"]
    colours = dict(zip(scale["domain"], scale["range"], strict=True))
    assert colours == {"random directions": charts.GREY, "alignment direction": charts.PALETTE[0]}
    assert {path.name for path in save_all([figure], tmp_path, "svg", "png")} == {
        "epl-profiles.svg",
        "epl-profiles.png",
    }


def test_cosines_are_drawn_beside_the_papers_with_gaps_left_out() -> None:
    of_paper = {"paper_table": "table1", "paper_rows": {"alignment": "harmful"}, "metrics": ("abs_cos",)}
    measured = {"interval": Interval(0.05, 0.3, "range"), "metric": Metric("abs_cos"), "details": {"null": [0.1]}}
    columns = (Column(10, "n = 10"), Column(50, "n = 50"))
    (figure,) = figures(table(record("alignment", 50, 0.1, **measured), columns=columns, **of_paper))
    assert figure.name == "cosines"
    for row, values, n in zip(figure.rows, ((None, None, None), (0.1, 0.05, 0.3)), (10, 50), strict=False):
        assert (row["value"], row["lo"], row["hi"]) == values
        assert row["paper"] == paper_value("table1", "abs_cos", "harmful", n)
