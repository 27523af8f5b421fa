"""The report's page: the dashboard with one table, nothing from elsewhere, and every text as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="the browser extra is not installed")

import numpy as np
from frontier_simulation import CONTROLS, WISHES, cells
from playwright.sync_api import Page
from report_cells import analysis, cell, sound_cells
from screenshots import browser, chromium_path

from asft.dashboard.site import write_report_page
from asft.dashboard.tables import table_data
from asft.frontier.compare import compare
from asft.frontier.write import page_data
from asft.report.analysis import Analysis
from asft.report.records import Column, Result

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title='broken'</script></table>|<img src=x onerror=alert(1)>|javascript:$x_1 & 50%"


@pytest.fixture(scope="module")
def phone() -> Iterator[Page]:
    if chromium_path() is None:
        pytest.skip("no chromium on the path")
    with browser() as started:
        yield started.new_page(viewport={"width": 390, "height": 800})


def opened(phone: Page, folder: Path, table: Analysis) -> list[str]:
    """Opens the page of a table, every part unfolded; what it asked for."""
    asked: list[str] = []
    phone.on("request", lambda request: asked.append(request.url))
    phone.goto(write_report_page(folder, table_data(table)).as_uri())
    phone.wait_for_selector("main[data-ready]")
    phone.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    phone.wait_for_selector("details:last-of-type .tabulator-row")
    return asked


def test_the_page_holds_every_section_in_order_and_asks_nobody(phone: Page, tmp_path: Path) -> None:
    asked = opened(phone, tmp_path, analysis(sound_cells()))
    text = phone.inner_text("main")
    order = [
        "The controls are in order.",
        "HS, harmful score in % (lower is better)",
        "What differs from the paper",
        "Plots",
        "Differences that hold",
        "Controls",
        "Method minus SFT",
        "Every comparison with its p-value",
        "Cost by method",
        "asft report experiment=table2",
        "torch 2.13.0",
    ]
    found = [text.index(words) for words in order]
    assert found == sorted(found)
    assert phone.locator(".plot svg").count() == 2
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.locator("nav a").count() == 0
    assert all(url.startswith((tmp_path.as_uri(), "data:", "blob:")) for url in asked)
    assert phone.get_attribute("meta[http-equiv]", "content").startswith("default-src 'none'")  # type: ignore[union-attr]


def test_hostile_text_stays_text(phone: Page, tmp_path: Path) -> None:
    columns = tuple(Column(ratio, f"{HOSTILE} {ratio:g}") for ratio in (0.0, 0.1, 0.2))
    changes = {"title": HOSTILE, "notes": (HOSTILE,), "command": HOSTILE}
    kept = [item for item in sound_cells() if item.column != 0.2 or item.row != "asft"]
    logged: dict[str, Any] = {"config": {HOSTILE: HOSTILE}, "extra": {HOSTILE: 1.0}, "made_with": ({HOSTILE: HOSTILE},)}
    cells: list[Result] = [cell(item.row, 5, 180, item.column, **logged) for item in kept]
    cells.append(Result("k", "asft", 0.2, 0, "failed", HOSTILE))
    rows = {"sft": "SFT", "asft": HOSTILE, "safe_lora": "Safe LoRA"}
    opened(phone, tmp_path, analysis(cells, rows=rows, columns=columns, **changes))
    assert phone.title() == HOSTILE, "and no script has changed it"
    assert phone.locator("main script, main img, main a[href^=javascript]").count() == 0
    assert phone.inner_text("main").count(HOSTILE) > 10
    point = phone.locator(".mark-symbol.role-mark path").first
    point.hover()
    phone.wait_for_selector("#vg-tooltip-element.visible")
    assert phone.locator("#vg-tooltip-element img, #vg-tooltip-element script").count() == 0


def test_a_comparison_over_strengths_tells_the_winner_of_a_wish(phone: Page, tmp_path: Path) -> None:
    found = compare(cells(2, np.random.default_rng(0))[0], WISHES, CONTROLS, 50)
    problems: list[str] = []
    phone.on("pageerror", lambda error: problems.append(str(error)))
    phone.goto(write_report_page(tmp_path, page_data(replace(found, name="frontier")), "frontier").as_uri())
    phone.wait_for_selector("main[data-ready]")
    assert "Better: winner than control; control than sft." in phone.inner_text("main")
    for wish, chosen in page_data(found)["winners"].items():
        phone.get_by_label("wish").select_option(wish)
        phone.get_by_text(chosen).wait_for()
    for method, points in (("", 14), ("control", 7)):
        phone.get_by_label("method").select_option(method)
        phone.wait_for_function(f"document.querySelectorAll('.plot .mark-symbol.role-mark path').length === {points}")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert not problems
