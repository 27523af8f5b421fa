"""Screenshots of every dashboard page, light and dark, from the store that the command line names.

    python scripts/screenshots.py outputs=outputs out=docs/images [page=pareto,table] [width=390]

Needs the ``browser`` extra and a Chromium on the path (or in ``CHROMIUM``).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

PAGES = {
    "overview": "#/overview",
    "table": "#/table",
    "pareto": "#/pareto",
    "curves": "#/curves?method=asft,sft",
    "compare": "#/compare",
    "generations": "#/generations",
    "landscape": "#/landscape",
    "anchor": "#/anchor",
}


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


def open_view(page: Page, index: Path, view: str) -> None:
    """Opens a view of the site from disk and waits until it is drawn."""
    page.goto(f"{index.as_uri()}{view}")
    page.wait_for_selector("main[data-ready]")
    page.wait_for_timeout(400)  # fonts and Plotly's own transitions


def main(arguments: list[str]) -> None:
    """Writes ``<page>-<theme>.png`` for every page and theme."""
    options = dict(argument.split("=", 1) for argument in arguments)
    index = Path(options.get("outputs", "outputs")).resolve() / "dashboard" / "index.html"
    if not index.exists():
        raise SystemExit(f"{index} is not there: first `asft dashboard outputs=…`")
    folder, width = Path(options.get("out", "docs/images")), int(options.get("width", "1200"))
    names = options.get("page", ",".join(PAGES)).split(",")
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as started:
        for theme in ("light", "dark"):
            context = started.new_context(
                viewport={"width": width, "height": 900}, color_scheme="light" if theme == "light" else "dark"
            )
            page = context.new_page()
            for name in names:
                page.goto("about:blank")
                open_view(page, index, PAGES[name])
                page.screenshot(path=folder / f"{name}-{theme}.png", full_page=False)
            context.close()
    print(f"{len(names)} pages, light and dark: {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
