"""Text and pictures of an audit: the HTML page, which needs no script and no network, and the model card."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Drawing:
    """A figure, which shows itself in a notebook."""

    spec: charts.Spec
    rows: charts.Rows

    def save(self, path: str | Path) -> Path:
        """Draws it into a file: ``.svg``, ``.png`` or ``.pdf``."""
        return charts.save(self.spec, self.rows, Path(path))

    def _repr_svg_(self) -> str:
        return charts.svg(self.spec, self.rows)

    @property
    def source(self) -> str:
        """As the source of an ``<img>``."""
        return "data:image/svg+xml;base64," + base64.b64encode(self._repr_svg_().encode()).decode()


def load_lines(aligned: str, folder: str) -> str:
    """The two lines that load a repaired adapter."""
    return render("load.py.j2", aligned=aligned, folder=folder).strip()
