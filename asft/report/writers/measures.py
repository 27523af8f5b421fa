"""The report of a table of measured values: Markdown, CSV, LaTeX, HTML, images, and the terminal."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asft.report.measure_table import MeasureEntry, MeasureTable, interval_text, number
from asft.report.writers import latex, markdown
from asft.report.writers.html import data_link
from asft.report.writers.measure_figures import page_figures
from asft.report.writers.measure_print import write_static
from asft.report.writers.write import ReportPaths


def write_measures(table: MeasureTable, out_dir: Path) -> ReportPaths:
    """Writes ``index.html``, ``table.md``, ``table.csv``, ``table.tex``, ``values.csv`` and the plots."""
    texts = {
        "table.md": render_measures(table),
        "table.csv": table.frame().to_csv(index=False),
        "values.csv": table.values_frame().to_csv(index=False),
        "table.tex": render_latex(table),
    }
    texts["index.html"] = _html(table, texts)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        (out_dir / name).write_text(content, encoding="utf-8")
    write_static(table, out_dir)
    return ReportPaths(out_dir / "index.html", out_dir / "table.md", out_dir / "table.csv", out_dir / "table.tex")


def render_measures(table: MeasureTable) -> str:
    """The report as Markdown."""
    spec = table.spec
    sections = [
        f"# {markdown.escape(spec.title)}",
        quantities(table),
        measures_markdown(table),
        markdown.section("No result", map(markdown.escape, table.gaps)),
        markdown.section("How to read it, and what differs from the paper", map(markdown.escape, spec.notes)),
        f"## How this was made\n\n    {spec.command}\n\n"
        + markdown.escape(", ".join(f"{name} {version}" for name, version in spec.versions.items())),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def measures_markdown(table: MeasureTable) -> str:
    """The table alone."""
    spec = table.spec
    header = ["", *(markdown.escape(column.label) for column in spec.columns)]
    rows = [[markdown.escape(label), *map(_cell, table.row_entries(row))] for row, label in spec.rows.items()]
    return markdown.table(header, rows)


def quantities(table: MeasureTable) -> str:
    """What the numbers are, in words."""
    return " ".join(QUANTITIES[name] for name in dict.fromkeys(table.spec.headline.values()))


QUANTITIES = {
    "abs_cos": "|cos| with the alignment direction; in brackets 95% of the random updates, or Student's over seeds.",
    "epl": "EPL: the largest α up to which HS is at most τ both ways (10% unless set); in brackets the range.",
    "safe_share": "Share of the grid, in percent, with HS at most 10%.",
    "mean_hs": "HS in percent, mean over the line along the first direction (alignment unless set).",
}


def print_measures(table: MeasureTable, console: Console) -> None:
    """The table in a terminal."""
    spec = table.spec
    console.print(Text(f"{spec.name}: {spec.title}", style="bold"))
    console.print(Text(quantities(table), style="dim"))
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    shown.add_column("")
    for column in spec.columns:
        shown.add_column(Text(column.label), justify="right", overflow="fold")
    for row, label in spec.rows.items():
        entries = table.row_entries(row)
        shown.add_row(Text(label), *(Text(number(e.value) if e.value is not None else e.status) for e in entries))
        for name, texts in (
            ("  range", [interval_text(entry) for entry in entries]),
            ("  paper", [number(entry.paper) for entry in entries]),
        ):
            if any(texts):
                shown.add_row(Text(name, style="dim"), *(Text(text, style="dim") for text in texts))
    console.print(shown)
    for line in (*table.gaps, *spec.notes):
        console.print(Text(f"- {line}"))


def _cell(entry: MeasureEntry) -> str:
    shown = [number(entry.value) if entry.value is not None else entry.status]
    if entry.lo is not None:
        shown.append(f"\\[{interval_text(entry)}\\]")
    if entry.paper is not None:
        shown.append(f"· paper {number(entry.paper)}")
    return " ".join(shown)


def render_latex(table: MeasureTable) -> str:
    """The table for a paper: booktabs, the paper's figures in italics beneath ours."""
    spec = table.spec
    escape = latex.escape
    lines = [
        "% Needs \\usepackage{booktabs}. Made by: " + spec.command,
        "\\begin{table*}",
        "  \\centering",
        f"  \\caption{{{escape(spec.title)}. {escape(quantities(table))}}}",
        f"  \\begin{{tabular}}{{l*{{{len(spec.columns)}}}{{r}}}}",
        "    \\toprule",
        "    & " + " & ".join(escape(column.label) for column in spec.columns) + r" \\",
        "    \\midrule",
    ]
    for row, label in spec.rows.items():
        entries = table.row_entries(row)
        shown = [number(entry.value) if entry.value is not None else entry.status for entry in entries]
        lines.append(f"    {escape(label)} & " + " & ".join(map(escape, shown)) + r" \\")
        if any(entry.paper is not None for entry in entries):
            papers = (f"\\textit{{{number(entry.paper)}}}" if entry.paper is not None else "" for entry in entries)
            lines.append("    \\quad\\scriptsize paper & " + " & ".join(papers) + r" \\")
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table*}", ""])


def _html(table: MeasureTable, downloads: dict[str, str]) -> str:
    environment = Environment(
        loader=PackageLoader("asft.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("measures.html.j2").render(
        table=table,
        spec=table.spec,
        quantities=quantities(table),
        number=number,
        interval=interval_text,
        values=table.values_frame(),
        figures=page_figures(table),
        downloads={name: data_link(content) for name, content in downloads.items()},
        plotly=Markup(get_plotlyjs()),
    )
