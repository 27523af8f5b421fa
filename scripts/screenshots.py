"""Screenshots of every dashboard page, light and dark, from the store that the command line names.

    python scripts/screenshots.py outputs=outputs out=docs/images/dashboard [page=pareto,table] [width=390]

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
    """Each page's view: Table 2 and the cells in it where the store has them, else what the page opens with."""
    index: dict[str, Any] = page.evaluate("Asft.load('index')")
    found = {name: f"#/{name}" for name in PAGES}
    if any(line["name"] == "table2" and line["done"] for line in index["experiments"]):
        found["table"] = "#/table/table2"
    table = [cell for cell in index["cells"] if _in_table2(cell)]
    shown = {cell["method"]: cell["key"] for cell in table if cell["p"] == 0.1}
    if {"sft", "asft"} <= shown.keys():
        found["compare"] = f"#/compare/{shown['sft']}/{shown['asft']}"
        found["generations"] = f"#/generations/{shown['sft']}"
        setting = {name: table[0][name] for name in ("model", "dataset", "source", "n", "training", "lr", "seed")}
        found["pareto"] = "#/pareto?" + urlencode({**setting, "lam": "1,–"})
        found["curves"] = "#/curves?" + urlencode(
            {**setting, "p": 0.1, "lam": "1,–", "method": "asft,asft_parallel,sft"}
        )
    planes = [plane["key"] for plane in index["landscapes"] if plane["title"].startswith("alignment × harmful:")]
    if planes:
        found["landscape"] = f"#/landscape/{planes[0]}"
    return found


def _in_table2(cell: dict[str, Any]) -> bool:
    """Whether a finished cell is a trained one of Table 2 on the embedded pair."""
    task = {"model": "tiny_llama", "dataset": "agnews", "source": "harmful", "n": 1000}
    wanted = {**task, "training": "lora", "lr": 2e-4, "seed": 0}
    return cell["lam"] in (None, 1) and all(cell[name] == value for name, value in wanted.items())


def open_view(page: Page, index: Path, view: str) -> None:
    """Opens a view of the site from disk and waits until it is drawn."""
    page.goto(f"{index.as_uri()}{view}")
    page.wait_for_selector("main[data-ready]")
    page.wait_for_timeout(400)  # fonts and Plotly's own transitions


def save(screenshot: bytes, path: Path) -> None:
    """Writes a PNG of 256 colours: a page has few, and the file is a third as large."""
    image = Image.open(BytesIO(screenshot)).convert("RGB")
    image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments: list[str]) -> None:
    """Writes ``<page>-<theme>.png`` for every page and theme."""
    options = dict(argument.split("=", 1) for argument in arguments)
    index = Path(options.get("outputs", "outputs")).resolve() / "dashboard" / "index.html"
    if not index.exists():
        raise SystemExit(f"{index} is not there: first `asft dashboard outputs=…`")
    folder, width = Path(options.get("out", "docs/images/dashboard")), int(options.get("width", "1200"))
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
                save(page.screenshot(), folder / f"{name}-{theme}.png")
            context.close()
    print(f"{len(names)} pages, light and dark: {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
