"""Text and pictures of an audit: the HTML page, which needs no script and no network, and the model card."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from asft.report import charts
from asft.report.text import p_value
from asft.text import visible


def render(name: str, **values: Any) -> str:
    """One of the templates beside this file."""
    environment = Environment(
        loader=PackageLoader("asft.auditing", "templates"),
        undefined=StrictUndefined,
        autoescape=select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"visible": visible, "p": p_value}
    return environment.get_template(name).render(**values)


def image(spec: charts.Spec, rows: charts.Rows) -> str:
    """A figure as the source of an ``<img>``."""
    return "data:image/svg+xml;base64," + base64.b64encode(charts.svg(spec, rows).encode()).decode()


def load_lines(aligned: str, folder: str) -> str:
    """The two lines that load a repaired adapter."""
    return render("load.py.j2", aligned=aligned, folder=folder).strip()
