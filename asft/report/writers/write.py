"""From a table to files."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from asft.report.analysis import Analysis
from asft.report.writers.figures import figures, save_all, table_picture
from asft.report.writers.latex import render_document, render_latex
from asft.report.writers.markdown import render_markdown

_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|\t")  # with what a spreadsheet's formula begins
PRINT_FORMATS = ("pdf", "tex")


def texts(analysis: Analysis) -> dict[str, str]:
    """File name to content: ``table.csv`` has a line a place and metric, ``values.csv`` one a finished cell."""
    return {
        "table.md": render_markdown(analysis),
        "table.csv": as_csv(analysis.frame()),
        "values.csv": as_csv(analysis.cells_frame()),
        "table.tex": render_latex(analysis),
    }


def as_csv(lines: list[dict[str, Any]]) -> str:
    """Lines that need not have the same fields, as CSV; what a spreadsheet would compute becomes text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, dict.fromkeys(name for line in lines for name in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text_cell(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _text_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # which some programs take for the end of a row
    return f"'{text}" if _FORMULA.match(text) else text


def write_report(analysis: Analysis, out_dir: Path) -> None:
    """Writes the :func:`texts` into ``out_dir``, and what was measured as pictures beside them."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, content in texts(analysis).items():
        (out_dir / name).write_text(content, encoding="utf-8")
    if not analysis.health:
        save_all(figures(analysis), out_dir, "svg", "png")


def write_for_print(analysis: Analysis, out_dir: Path, kind: str) -> list[Path]:
    """Writes what goes into a paper beside :func:`write_report`'s files: PDFs, for ``tex`` a document with them."""
    drawn = figures(analysis)
    paths = save_all([table_picture(analysis), *drawn] if analysis.health else drawn, out_dir, "pdf")
    if kind != "tex":
        return paths
    document = out_dir / "paper.tex"
    captions = {figure.name: figure.caption for figure in drawn}
    document.write_text(render_document(analysis.spec.title, captions), encoding="utf-8")
    return [document, out_dir / "table.tex", *paths]
