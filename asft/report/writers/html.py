"""The report as one HTML page that opens anywhere: scripts, styles and downloads are inside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from asft.report import text
from asft.report.analysis import Analysis, Difference
from asft.report.contrast import finding
from asft.report.costs import cell_costs, method_costs, shared_settings
from asft.report.table import ALL_COLUMNS
from asft.report.writers.figures import report_figures
from asft.report.writers.measure_figures import page_figures


def render_html(analysis: Analysis, downloads: Mapping[str, str]) -> str:
    """The page of one table.

    ``downloads`` maps file names to the text of the other formats, which the page carries as data links.
    Everything that comes from records or spec is escaped; only Plotly's own script is not.
    """
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            analysis=analysis,
            spec=analysis.spec,
            text=text,
            finding=finding(analysis),
            figures=report_figures(analysis),
            all_columns=ALL_COLUMNS,
            comparisons=_comparisons(analysis),
            method_costs=method_costs(analysis),
            cell_costs=cell_costs(analysis),
            settings=shared_settings(analysis.records),
            downloads={name: data_link(content) for name, content in downloads.items()},
            plotly=Markup(get_plotlyjs()),
        )
    )


def render_measures(analysis: Analysis, downloads: Mapping[str, str]) -> str:
    """The page of a table of measured values; as :func:`render_html`."""
    return (
        _environment()
        .get_template("measures.html.j2")
        .render(
            analysis=analysis,
            spec=analysis.spec,
            text=text,
            values=analysis.cells_frame(),
            figures=page_figures(analysis),
            downloads={name: data_link(content) for name, content in downloads.items()},
            plotly=Markup(get_plotlyjs()),
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("asft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_link(content: str) -> str:
    """A link that holds the text itself."""
    return "data:text/plain;charset=utf-8;base64," + b64encode(content.encode()).decode("ascii")


def _comparisons(analysis: Analysis) -> dict[str, dict[tuple[str, str, str], Difference]]:
    """Reference row to (method, metric, column heading) to its tested difference, for the matrices."""
    matrices: dict[str, dict[tuple[str, str, str], Difference]] = {}
    for item in analysis.comparisons:
        matrices.setdefault(item.reference, {})[item.method, item.metric.name, item.column] = item
    return matrices
