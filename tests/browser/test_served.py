"""The served site in a real browser: it works behind its link, and no other page gets at its data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the browser extra is not installed")

from playwright.sync_api import Page, expect
from screenshots import browser, chromium_path

from asft.dashboard import Site
from asft.dashboard.serve import Server, start_server
from asft.store.entries import Store

pytestmark = pytest.mark.slow

# Takes what a data file hands over, were it loaded as a script; and tries every other way that a page has.
THIEF = """<!doctype html><script>
  window.taken = [];
  window.Asft = { put: (name, value) => window.taken.push([name, value]) };
  const link = "%s";
  const settled = (element, place) => new Promise((done) => {
    element.onload = element.onerror = done;
    place.append(element);
  });
  const script = Object.assign(document.createElement("script"), { src: link + "data/index.js" });
  const frame = Object.assign(document.createElement("iframe"), { src: link });
  window.done = (async () => {
    await settled(script, document.head);
    await settled(frame, document.documentElement);
    try { taken.push(frame.contentWindow.Asft, frame.contentDocument.title); } catch {}
    for (const mode of ["cors", "no-cors"])
      try { taken.push(await (await fetch(link + "data/index.js", { mode })).text()); } catch {}
    return window.taken.filter(Boolean);
  })();
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if chromium_path() is None:
        pytest.skip("no chromium on the path")
    with browser() as started:
        yield started.new_page()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    outputs = tmp_path_factory.mktemp("served")
    site = Site(Store(outputs), [], outputs / "dashboard")
    site.build()
    server = start_server(site, 0)
    yield server
    server.shutdown()
    server.server_close()


def test_the_link_opens_the_site(page: Page, served: Server) -> None:
    page.goto(served.link)
    expect(page.locator("main")).to_have_attribute("data-ready", "1", timeout=30_000)
    assert page.evaluate("Asft.load('index').then((index) => index.pages.length)") > 1


def test_a_build_between_the_index_and_the_first_look_is_seen(page: Page, tmp_path: Path) -> None:
    site = Site(Store(tmp_path), [], tmp_path / "dashboard", live=True)
    site.build()
    later = 'Asft.put("version","later");'
    page.route("**/data/version.js*", lambda route: route.fulfill(body=later, content_type="text/javascript"))
    page.goto(site.index.as_uri())
    with page.expect_navigation():  # it loads itself anew
        pass
    page.unroute("**/data/version.js*")
    page.goto("about:blank")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "evil.localhost"])
def test_a_page_of_another_origin_takes_nothing(page: Page, served: Server, name: str, tmp_path: Path) -> None:
    (tmp_path / "thief.html").write_text(THIEF % served.link)
    thief = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=thief.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://{name}:{thief.server_port}/thief.html")
        assert page.evaluate("window.done") == []
    finally:
        thief.shutdown()
        thief.server_close()


def test_another_name_of_this_machine_is_refused(page: Page, served: Server) -> None:
    """As a site has it that lets its own name lead here (DNS rebinding): the page would be of the data's origin."""
    for path in ("", "data/index.js"):
        answer = page.goto(served.link.replace("127.0.0.1", "rebound.localhost") + path)
        assert answer is not None
        assert (answer.status, "Asft" in answer.text()) == (403, False)
