"""The report's own page at a phone's width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the browser extra is not installed")

from playwright.sync_api import Page
from report_cells import analysis, sound_cells
from screenshots import browser, chromium_path

from asft.report.writers.write import write_report

pytestmark = pytest.mark.slow


@pytest.fixture
def phone() -> Iterator[Page]:
    if chromium_path() is None:
        pytest.skip("no chromium on the path")
    with browser() as started:
        yield started.new_page(viewport={"width": 390, "height": 800})


def test_a_phone_does_not_scroll_sideways(phone: Page, tmp_path: Path) -> None:
    paths = write_report(analysis(sound_cells()), tmp_path)
    phone.goto(paths.html.as_uri())
    phone.wait_for_selector("#along-columns .main-svg")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
