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
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

PAGES = ("overview", "table", "pareto", "curves", "compare", "generations", "landscape", "anchor")


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


def views(page: Page) -> dict[str, str]:
    """Each page's view: those about single cells take plain SFT and AsFT where the attack is strongest."""
    cells: list[dict[str, Any]] = page.evaluate("Asft.load('index').then((index) => index.cells)")
    found = {name: f"#/{name}" for name in PAGES}
    lora = [cell for cell in cells if cell["training"] == "lora"]
    strongest = {cell["method"]: cell["key"] for cell in sorted(lora, key=lambda cell: cell["p"])}
    if {"sft", "asft"} <= strongest.keys():
        found["compare"] = f"#/compare/{strongest['sft']}/{strongest['asft']}"
        found["generations"] = f"#/generations/{strongest['sft']}"
        found["curves"] = (
            "#/curves?model=tiny_llama&dataset=agnews&p=0.1&n=1000&training=lora&lr=0.0002&lam=1%2C%E2%80%93&method=asft%2Csft%2Cl2&seed=0"
        )
    return found


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
                viewport={"width": width, "height": 800}, color_scheme="light" if theme == "light" else "dark"
            )
            page = context.new_page()
            open_view(page, index, "")
            shown = views(page)
            for name in names:
                page.goto("about:blank")
                open_view(page, index, shown[name])
                page.screenshot(path=folder / f"{name}-{theme}.png")
            context.close()
    print(f"{len(names)} pages, light and dark: {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
