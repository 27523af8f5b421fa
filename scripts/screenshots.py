"""Screenshots of the dashboard's pages from whatever store the command line names: those that the docs show, or others.

    python scripts/screenshots.py [outputs=FOLDER] [out=docs/images/dashboard] [page=table-dark] [width=390]

Needs the ``browser`` extra and a Chromium on the path (or in ``CHROMIUM``).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

SHOWN = "table-light,pareto-dark"  # in README.md and docs/how-to/dashboard.md


def chromium_path() -> str | None:
    """The system's Chromium, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = chromium_path()
    if path is None:
        raise SystemExit("no chromium on the path: install Debian's chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


def view(page: Page, name: str) -> str:
    """What a page shows: the table with the most cells, trained cells in the plots, the two safest and least safe."""
    index: dict[str, Any] = page.evaluate("Asft.load('index')")
    trained = [cell for cell in index["cells"] if cell["p"] is not None]
    methods = {"method": ",".join(sorted({cell["method"] for cell in trained}))}
    begun = [line for line in index["experiments"] if line["done"]]
    # Whole tables first, the larger of two.
    begun.sort(key=lambda line: (line["done"] == line["total"], line["done"]), reverse=True)
    by_harm = sorted(trained, key=lambda cell: cell["metrics"]["HS"]["value"])
    links = {
        "table": begun and f"#/table/{begun[0]['name']}",
        "pareto": f"#/pareto?{urlencode(methods)}",
        "compare": by_harm and f"#/compare/{by_harm[0]['key']}/{by_harm[-1]['key']}",
        "generations": by_harm and f"#/generations/{by_harm[-1]['key']}",
    }
    return links.get(name) or f"#/{name}"


def open_view(page: Page, index: Path, view: str) -> None:
    """Opens a view of the site from disk and waits until it is drawn."""
    page.goto(f"{index.as_uri()}{view}")
    page.wait_for_selector("main[data-ready]")
    page.wait_for_timeout(400)  # fonts and Plotly's own transitions


def save(screenshot: bytes, path: Path) -> None:
    """Writes a PNG of 256 colours: a page has few, and the file is a third as large."""
    image = Image.open(BytesIO(screenshot)).convert("RGB")
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments: list[str]) -> None:
    """Writes ``<page>-<theme>.png`` for every page and theme asked for."""
    options = dict(argument.split("=", 1) for argument in arguments)
    index = Path(options.get("outputs", "outputs")).resolve() / "dashboard" / "index.html"
    if not index.exists():
        raise SystemExit(f"{index} is not there: first `asft dashboard outputs=…`")
    folder, size = Path(options.get("out", "docs/images/dashboard")), {"width": int(options.get("width", "1000"))}
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as started:
        for shown in options.get("page", SHOWN).split(","):
            name, _, theme = shown.rpartition("-")
            page = started.new_page(viewport={**size, "height": 720}, color_scheme=theme)
            open_view(page, index, "")
            link = view(page, name)
            page.goto("about:blank")
            open_view(page, index, link)
            save(page.screenshot(), folder / f"{shown}.png")
            page.close()


if __name__ == "__main__":
    main(sys.argv[1:])
