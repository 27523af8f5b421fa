"""From cells to files and terminal: the report package's two entry points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from asft.report.analysis import analyse
from asft.report.frame import long_frame
from asft.report.records import Cell, TableSpec
from asft.report.writers.camera import write_pdf
from asft.report.writers.html import render_html
from asft.report.writers.latex import FIGURE_CAPTIONS, render_document, render_latex
from asft.report.writers.markdown import render_markdown
from asft.report.writers.terminal import print_analysis

PRINT_FORMATS = ("pdf", "tex")


@dataclass(frozen=True)
class ReportPaths:
    """The files of one report."""

    html: Path
    markdown: Path
    csv: Path
    latex: Path


def write_report(spec: TableSpec, cells: Iterable[Cell], out_dir: Path) -> ReportPaths:
    """Writes ``index.html``, ``table.md``, ``table.csv`` and ``table.tex`` into ``out_dir``.

    The CSV is the long frame of :func:`asft.report.frame.long_frame`; the page carries the other three.

    Raises:
        ValueError: cells that the table has no place for (see :class:`asft.report.grid.Grid`).
    """
    analysis = analyse(spec, cells)
    texts = {
        "table.md": render_markdown(analysis),
        "table.csv": long_frame(analysis.entries).to_csv(index=False),
        "table.tex": render_latex(analysis),
    }
    texts["index.html"] = render_html(analysis, downloads=texts)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        (out_dir / name).write_text(content, encoding="utf-8")
    return ReportPaths(
        html=out_dir / "index.html",
        markdown=out_dir / "table.md",
        csv=out_dir / "table.csv",
        latex=out_dir / "table.tex",
    )


def write_for_print(spec: TableSpec, cells: Iterable[Cell], out_dir: Path, kind: str) -> list[Path]:
    """Writes what goes into a paper beside :func:`write_report`'s files: PDFs, for ``tex`` a document with them.

    Raises:
        ValueError: as :func:`write_report`.
    """
    paths = write_pdf(analyse(spec, cells), out_dir)
    if kind == "tex":
        figures = {path.stem: FIGURE_CAPTIONS[path.stem] for path in paths if path.stem in FIGURE_CAPTIONS}
        document = out_dir / "paper.tex"
        document.write_text(render_document(spec.title, figures), encoding="utf-8")
        return [document, out_dir / "table.tex", *paths]
    return paths


def print_report(spec: TableSpec, cells: Iterable[Cell], console: Console) -> None:
    """Prints the same report to a terminal.

    Raises:
        ValueError: as :func:`write_report`.
    """
    print_analysis(analyse(spec, cells), console)
