"""The audit's page: text and pictures alone, prompts behind a click, on a phone and in the dark."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the browser extra is not installed")

from screenshots import browser, chromium_path

from asft.auditing.results import Audit, Candidate, Compared, Drift, Flip, ModuleUpdate, Repair, verdict_of

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title='broken'</script><img src=http://x.invalid/x onerror=alert(1)>"


def test_the_page_asks_nobody_hides_prompts_and_fits_a_phone_in_the_dark(tmp_path: Path) -> None:
    if chromium_path() is None:
        pytest.skip("no chromium on the path")
    hs = Compared.of("HS", [0.0] * 40, [1.0] * 20 + [0.0] * 20)
    modules = tuple(ModuleUpdate(f"model.layers.{at}.self_attn.q_proj", 1.0 + at, 0.1 * at) for at in range(8))
    flips = (Flip("HS", "prompts/1", HOSTILE, HOSTILE, "an answer" * 50, True),)
    told = {"fine-tune": HOSTILE, "judge": HOSTILE, "caveat": HOSTILE}
    audit = Audit(verdict_of(hs, 5), (hs,), Drift(40, 50.0, 0.5), modules, flips, told)
    tried = (Candidate("fine-tune", "", 50, 90), Candidate("WiSE-FT, a = 0.5", "WiSE-FT", 1, 89, True))
    repair = Repair(tried[1], "a wish", tried, (hs,), audit.verdict, tmp_path)
    (tmp_path / "audit.html").write_text(audit.html(repair))
    asked: list[str] = []
    said: list[str] = []
    with browser() as started:
        page = started.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((tmp_path / "audit.html").as_uri())
        assert page.title() == "asft audit"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not page.get_by_text("an answer").is_visible()
        page.click("summary")
        assert page.get_by_text("an answer").is_visible()
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light dark"
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        page.screenshot(path=tmp_path / "audit.png", full_page=True)
    assert all(url.startswith((tmp_path.as_uri(), "data:")) for url in asked)
    assert not said
