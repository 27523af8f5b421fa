"""What goes into a paper: PDFs of table and figures, a document around them; and the terminal at 80 columns."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from report_cells import RATIOS, analysis, cell, sound_cells
from rich.console import Console

from asft.commands.report import report
from asft.config import ConfigError
from asft.report.records import Column, Result
from asft.report.writers.figures import figures, save_all
from asft.report.writers.terminal import print_analysis
from asft.report.writers.write import write_for_print


def test_pdf_holds_the_table_and_both_figures(tmp_path: Path) -> None:
    paths = write_for_print(analysis(sound_cells()), tmp_path, "pdf")
    assert {path.name for path in paths} == {"table.pdf", "along-columns.pdf", "trade-off.pdf"}
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/Type3" not in content, "conferences refuse Type 3 fonts"


def test_the_same_cells_give_the_same_picture(tmp_path: Path) -> None:
    drawn = figures(analysis(sound_cells()))
    first, second = (save_all(drawn, tmp_path / name, "png") for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_cell_without_result_leaves_a_gap_and_no_error(tmp_path: Path) -> None:
    cells = [c for c in sound_cells() if not (c.row == "asft" and c.column == RATIOS[1])]
    gap = Result("gap", "asft", RATIOS[1], 0, "failed", "out of memory")
    assert len(write_for_print(analysis([*cells, gap]), tmp_path, "pdf")) == 3


def test_tex_names_files_that_are_there(tmp_path: Path) -> None:
    document = write_for_print(analysis(sound_cells(), title="50% & more"), tmp_path, "tex")[0].read_text()
    assert r"50\% \& more" in document
    figures = re.findall(r"\\includegraphics\[.*\]\{(.*)\}", document)
    assert sorted(figures) == ["along-columns", "trade-off"]
    for name in figures:
        assert (tmp_path / f"{name}.pdf").exists()


@pytest.mark.parametrize("arguments", [["--format", "docx"], ["--format"]])
def test_an_unknown_format_names_the_allowed_ones(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--format: (.*docx.*pdf.*tex|expected one argument)"):
        report(["experiment=demo", *arguments])


def test_many_columns_fit_80_columns_without_colour() -> None:
    ratios = [position / 20 for position in range(14)]
    columns = tuple(Column(p, f"p = {p:g}") for p in ratios)
    cells = [cell(row, 10, 180, p) for row in ("sft", "safe_lora", "asft") for p in ratios]
    table = analysis([cell("base", 98, 20), cell("aligned", 1, 30), *cells], columns=columns)
    out = io.StringIO()
    print_analysis(table, Console(file=out, width=80, no_color=True))
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert all(f"p = {p:g}" in shown for p in ratios)
    assert shown.count("*10.0") == 2 * len(ratios), "both defences share the best HS of every column"
