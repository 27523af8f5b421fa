"""From a table to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asft.report.analysis import Analysis
from asft.report.writers.camera import write_pdf
from asft.report.writers.html import render_html, render_measures
from asft.report.writers.latex import FIGURE_CAPTIONS, render_document, render_latex
from asft.report.writers.markdown import render_markdown
from asft.report.writers.measure_print import write_measures_for_print, write_static

PRINT_FORMATS = ("pdf", "tex")


@dataclass(frozen=True)
class ReportPaths:
    """The files of one report."""

    html: Path
    markdown: Path
    csv: Path
    latex: Path


def write_report(analysis: Analysis, out_dir: Path) -> ReportPaths:
    """Writes ``index.html``, ``table.md``, ``table.csv``, ``table.tex`` and ``values.csv`` into ``out_dir``.

    ``table.csv`` has a line a place and metric, ``values.csv`` one a finished cell with all its numbers; the page
    carries the others. Measured landscapes are drawn beside them.
    """
    texts = {
        "table.md": render_markdown(analysis),
        "table.csv": analysis.frame().to_csv(index=False),
        "values.csv": analysis.cells_frame().to_csv(index=False),
        "table.tex": render_latex(analysis),
    }
    render = render_html if analysis.health else render_measures
    texts["index.html"] = render(analysis, downloads=texts)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        (out_dir / name).write_text(content, encoding="utf-8")
    if not analysis.health:
        write_static(analysis, out_dir)
    return ReportPaths(out_dir / "index.html", out_dir / "table.md", out_dir / "table.csv", out_dir / "table.tex")


def write_for_print(analysis: Analysis, out_dir: Path, kind: str) -> list[Path]:
    """Writes what goes into a paper beside :func:`write_report`'s files: PDFs, for ``tex`` a document with them."""
    if not analysis.health:
        return write_measures_for_print(analysis, out_dir, kind)
    paths = write_pdf(analysis, out_dir)
    if kind == "tex":
        figures = {path.stem: FIGURE_CAPTIONS[path.stem] for path in paths if path.stem in FIGURE_CAPTIONS}
        document = out_dir / "paper.tex"
        document.write_text(render_document(analysis.spec.title, figures), encoding="utf-8")
        return [document, out_dir / "table.tex", *paths]
    return paths
