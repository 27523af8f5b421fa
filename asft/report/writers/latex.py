"""The table for a paper: booktabs, the paper's own figures beneath ours."""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from asft.report.analysis import Analysis
from asft.report.table import Entry

_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "{}$&#%_"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "–": "--"}
    | {"α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$", "τ": r"$\tau$", "Δ": r"$\Delta$"}
)


def escape(value: str) -> str:
    """Text as LaTeX prints it; line breaks become spaces."""
    return " ".join(value.split()).translate(_ESCAPES)


def render_latex(analysis: Analysis) -> str:
    """A ``table*`` float with one panel per metric; needs ``booktabs`` only."""
    template = _environment().get_template("table.tex.j2")
    return template.render(analysis=analysis, spec=analysis.spec, value=_value, paper=_paper)


def render_document(title: str, figures: Mapping[str, str]) -> str:
    """A document around ``table.tex`` and the figures' PDF files: name to what is seen there."""
    return _environment().get_template("paper.tex.j2").render(title=title, figures=figures)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("asft.report"),
        undefined=StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # HTML's escaping would be wrong here: every value passes the `tex` filter
    )
    environment.filters["tex"] = escape
    return environment


def _value(entry: Entry) -> str:
    """Our figure with its interval; the words where there is none."""
    if entry.ours is None:
        return rf"\textit{{{entry.text}}}"
    value = rf"\textbf{{{entry.text}}}" if entry.best else entry.text
    value += r"$^\dagger$" if entry.status == "partial" else ""
    return rf"{value} {{\scriptsize [{escape(entry.range_text)}]}}" if entry.range_text else value


def _paper(entry: Entry) -> str:
    """The paper's figure and our distance from it."""
    paper = entry.paper_text and rf"\textit{{{entry.paper_text}}}"
    return " ".join(part for part in (paper, escape(entry.delta_text)) if part)
