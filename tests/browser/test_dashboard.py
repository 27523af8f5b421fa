"""The built site in a real browser, opened from disk. The fixture fails a test whose page logs an error or leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the browser extra is not installed")

from dashboard_site import MARKUP, build_judged, build_read_again, build_site, build_three
from helpers import read_jsonl
from playwright.sync_api import Browser, Page, expect
from screenshots import browser, chromium_path
from synthetic_store import write_cell

from asft.cells.compose import enumerate_cells
from asft.dashboard import Site
from asft.report.statistics import mcnemar
from asft.store.entries import Store
from asft.store.schemas import HARMFUL_FILE, TASK_FILE

pytestmark = pytest.mark.slow

PATIENCE_MS = 30_000  # on a busy machine; nothing waits that long where it is right
PAGES = ("overview", "table", "frontier", "pareto", "curves", "compare", "generations", "landscape", "anchor")


@dataclass
class Watched:
    """A page that takes down what went wrong in it."""

    page: Page
    index: Path
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, view: str) -> Page:
        """Opens a view in a document of its own."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.index.as_uri()}{view}")
        expect(self.page.locator("main")).to_have_attribute("data-ready", "1")
        return self.page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return build_site(tmp_path_factory.mktemp("dashboard"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if chromium_path() is None:
        pytest.skip("no chromium on the path")
    with browser() as started:
        yield started


@pytest.fixture
def watched(chromium: Browser, site: Site) -> Iterator[Watched]:
    """A new page; at the end it must have had no error and have asked nobody else for anything."""
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    found = Watched(page, site.index)
    page.on("console", lambda message: message.type in ("error", "warning") and found.problems.append(message.text))
    page.on("pageerror", lambda error: found.problems.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    yield found
    page.close()
    assert not found.problems
    strangers = [
        url for url in found.requests if not url.startswith((site.folder.as_uri(), "data:", "blob:", "about:"))
    ]
    assert not strangers


@contextmanager
def redrawn(page: Page) -> Iterator[None]:
    """Waits until what is done inside has drawn the view anew."""
    before = page.locator("main").get_attribute("data-ready") or ""
    yield
    expect(page.locator("main")).not_to_have_attribute("data-ready", before)


def keys(site: Site, method: str) -> list[str]:
    return [key for key, row in site.rows.items() if row["method"] == method]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_and_none_scrolls_sideways(watched: Watched, name: str) -> None:
    watched.page.set_viewport_size({"width": 390, "height": 800})
    page = watched.open(f"#/{name}")
    expect(page.locator("h1")).to_have_text(re.compile(name, re.I))
    expect(page.locator("[role=alert]")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("nav a[aria-current]")).to_have_text(re.compile(name, re.I))
    expect(page.locator("nav a[aria-current]")).to_be_in_viewport(ratio=0.9)
    page.set_viewport_size({"width": 1200, "height": 800})
    page.wait_for_function("document.documentElement.scrollWidth <= 1200")


def test_on_a_phone_a_long_legend_covers_no_axis_title(watched: Watched) -> None:
    watched.page.set_viewport_size({"width": 390, "height": 800})
    page = watched.open("#/landscape")
    page.evaluate(
        """async () => {
          const main = document.querySelector("main");
          main.replaceChildren();
          const { charts } = await Asft.load("index");
          const draw = await Asft.chart(main, { name: "made-up", label: "made up", spec: charts.spectrum });
          await draw(Array.from({ length: 14 }, (_, i) => ({ series: `some_method_${i}`, rank: 1, value: i })));
        }"""
    )
    legend, title = (page.locator(name).bounding_box() for name in (".role-legend", ".role-axis-title >> nth=0"))
    assert legend
    assert title
    assert legend["y"] + legend["height"] <= title["y"]
    assert legend["x"] + legend["width"] <= 390


def test_the_overview_shows_progress_and_failures_as_text(watched: Watched) -> None:
    page = watched.open("")
    expect(page.get_by_text("7 of 8, 1 failed")).to_be_visible()
    expect(page.get_by_text("demo_real (data.root=null: needs data)")).to_be_visible()
    expect(page.locator(".tiles")).to_contain_text("1cells failed")
    expect(page.get_by_text("out of memory <b>here</b>")).to_be_visible()
    page.get_by_text("where it happened").click()
    expect(page.get_by_text("the last line")).to_be_visible()
    expect(page.get_by_text("the first line")).to_have_count(0)
    page.get_by_role("link", name="demo", exact=True).click()
    expect(page.locator("h1")).to_have_text("Table")


def test_a_table_has_the_papers_figures_downloads_and_links_to_answers(watched: Watched) -> None:
    page = watched.open("#/table/demo")
    asft = page.locator(".tabulator-row", has_text="AsFT").first
    expect(asft).to_contain_text("paper 4.00")
    expect(asft.locator(".small").first).to_have_text(re.compile(r"[\d.]+–[\d.]+"))
    for name, start in (("table.csv", "row,label"), ("table.tex", "% Needs"), ("table.md", "# ")):
        with page.expect_download() as caught:
            page.get_by_role("button", name=name, exact=True).click()
        assert caught.value.path().read_text().startswith(start)
    with redrawn(page):
        asft.locator(".ours a").first.click()
    expect(page.locator("h1")).to_have_text("Generations")
    expect(page.locator("select >> nth=0").locator("option:checked")).to_contain_text("asft")
    assert page.evaluate("scrollY") == 0


def test_a_cell_at_work_is_seen(watched: Watched, site: Site) -> None:
    open_cell = site.experiments[0].sweep.cells[-1].key  # type: ignore[union-attr]
    with site.store.claim(open_cell, wait=False):
        site.write_running()
        page = watched.open("")
        expect(page.get_by_text("Cells, the latest first")).to_be_visible()
        expect(page.get_by_text("At work")).to_have_count(0)  # on disk it would stand there for ever
        site.live = True
        site.build()
        page = watched.open("")
        expect(page.get_by_text("between stages")).to_contain_text("method=")
    site.live = False
    site.build()


def test_filters_narrow_the_plot_and_live_in_the_link(watched: Watched, site: Site) -> None:
    page = watched.open("#/pareto")
    expect(page.locator("#status")).to_have_text(f"{len(site.rows)} of {len(site.rows)} cells")
    page.get_by_text("method: all").click()
    page.get_by_label("asft", exact=True).check()
    expect(page.locator("#status")).to_have_text(f"2 of {len(site.rows)} cells")
    expect(page.locator(".tabulator-row")).to_have_count(2)
    page.mouse.click(5, 700)
    expect(page.locator(".filters details[open]")).to_have_count(0)
    link = page.url
    watched.open(link[link.index("#") :])
    expect(page.locator("#status")).to_have_text(f"2 of {len(site.rows)} cells")
    expect(page.locator("summary", has_text="method: asft")).to_be_visible()
    with page.expect_download() as caught:
        page.get_by_role("button", name="Plot as SVG").click()
    assert "<svg" in caught.value.path().read_text()


def test_any_two_metrics_are_the_axes_and_a_third_has_its_column(chromium: Browser, tmp_path: Path) -> None:
    page = chromium.new_page()
    page.goto(f"{build_three(tmp_path).index.as_uri()}#/pareto")
    expect(page.get_by_label("horizontal")).to_have_value("HS")
    expect(page.get_by_label("vertical")).to_have_value("FA")
    expect(page.locator(".mark-symbol.role-mark path")).to_have_count(5)
    with redrawn(page):
        page.get_by_label("vertical").select_option("OR")
    expect(page.get_by_text("Down and to the left is better")).to_be_visible()
    expect(page.locator(".mark-symbol.role-mark path")).to_have_count(4)
    expect(page.locator(".role-axis-title", has_text="OR, % (lower is better)")).to_have_count(1)
    cells = page.evaluate("Asft.load('index')")["cells"]
    first, second = [cell for cell in cells if "OR" in cell["metrics"]][:2]
    with redrawn(page):
        page.evaluate("(link) => { location.hash = link }", f"#/generations/{first['key']}")
    page.get_by_label("answers to").select_option("OR")
    expect(page.locator(".tag").first).to_have_text(re.compile("^OR: (yes|no)$"))
    with redrawn(page):
        page.evaluate("(link) => { location.hash = link }", f"#/compare/{first['key']}/{second['key']}")
    line = page.get_by_label("Scores", exact=True).locator(".tabulator-row", has_text="OR")
    expect(line).to_contain_text(f"{first['metrics']['OR']['value']:.1f}")
    page.close()


def test_compare_agrees_with_the_reports_test(watched: Watched, site: Site) -> None:
    first, second = keys(site, "sft")[0], keys(site, "asft")[0]
    page = watched.open(f"#/compare/{first}/{second}")
    verdicts = [
        {row["id"]: row["flagged"] for row in read_jsonl(site.store.path("cells", key) / HARMFUL_FILE)}
        for key in (first, second)
    ]
    differ = [row for row in verdicts[0] if verdicts[0][row] != verdicts[1][row]]
    only_first = sum(verdicts[0][row] for row in differ)
    p = mcnemar(only_first, len(differ) - only_first)
    line = page.get_by_label("Scores", exact=True).locator(".tabulator-row", has_text="HS")
    expect(line).to_contain_text("< 0.001" if p < 0.001 else f"{p:.3f}")
    for key in (first, second):
        expect(line).to_contain_text(f"{site.rows[key]['metrics']['HS']['value']:.1f}")
    expect(page.get_by_label("Settings that differ").get_by_text("method.name")).to_be_visible()
    expect(page.locator("option:checked", has_text="malicious")).to_contain_text(f"{len(differ)} of 60")
    expect(page.locator(".answers > li")).to_have_count(min(10, len(differ)))


def test_a_deep_link_reopens_the_same_answers(watched: Watched, site: Site) -> None:
    key = keys(site, "sft")[0]
    page = watched.open(f"#/generations/{key}?part=FA")
    page.get_by_label("verdict").select_option("no")
    page.get_by_label("Search").fill("placeholder answer")
    expect(page).to_have_url(re.compile("q=placeholder"))
    expect(page.get_by_text(re.compile("^matches 1–20, found"))).to_be_visible()
    expect(page.get_by_label("Search")).to_be_focused()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text(re.compile("^matches 21–"))).to_be_visible()
    shown = page.locator(".answers h3").all_inner_texts()
    wrong = [row["id"] for row in read_jsonl(site.store.path("cells", key) / TASK_FILE) if row["credit"] < 1]
    assert shown == [name for name in wrong if int(name.split("/")[1]) >= len(MARKUP)][20:40]
    watched.open(page.url[page.url.index("#") :])
    assert page.locator(".answers h3").all_inner_texts() == shown


def test_answers_come_in_pieces(watched: Watched, site: Site) -> None:
    key = keys(site, "sft")[0]
    watched.open(f"#/generations/{key}?part=FA")
    assert [url for url in watched.requests if "1-0.js" in url]
    assert not [url for url in watched.requests if "1-1.js" in url]


def test_markup_in_answers_stays_text(watched: Watched, site: Site) -> None:
    key = keys(site, "base")[0]
    page = watched.open(f"#/generations/{key}")
    expect(page.get_by_text(MARKUP[0])).to_have_count(0)
    expect(page.get_by_text("Placeholder prompt 0")).to_have_count(0)
    page.get_by_role("button", name="Show the malicious prompt").first.click()
    expect(page.get_by_text("Placeholder prompt 0", exact=True)).to_be_visible()
    for text in MARKUP:
        page.get_by_role("button", name="Show the harmful answer").first.click()
        expect(page.locator(".answer", has_text=text.split("\u2028")[0])).to_have_count(1)
    assert page.locator(".answers script, .answers img, .answers a").count() == 0
    assert page.title() == "Generations · asft"


def test_whoever_reads_answers_to_malicious_prompts_hides_them_too(chromium: Browser, tmp_path: Path) -> None:
    site = build_read_again(tmp_path)
    page, (first, second) = chromium.new_page(), site.rows
    for view in (f"generations/{first}", f"compare/{first}/{second}"):
        for part, hidden in (("HS", True), ("coherence", True), ("FA", False)):
            page.goto("about:blank")
            page.goto(f"{site.index.as_uri()}#/{view}?part={part}")
            expect(page.locator(".answers > li")).not_to_have_count(0)
            expect(page.locator(".answers .prompt")).to_have_count(
                0 if hidden else page.locator(".answers > li").count()
            )
            expect(page.get_by_role("button", name=re.compile("^Show the"))).to_have_count(0) if not hidden else None
    page.goto(f"{site.index.as_uri()}#/generations/{second}?part=coherence")
    page.get_by_role("button", name="Show the harmful answer").first.click()
    expect(page.locator(".answers .answer")).not_to_have_count(0)
    page.close()


def test_numbers_are_sorted_by_what_they_say_and_missing_ones_stand_last(watched: Watched) -> None:
    page = watched.open("")
    texts = ["9.0 (8.0 to 9.9)", "+10.5 ✓", "–", "−2.0", "37.2 (35.0 to 39.4)", "< 0.001", "1,234", ""]
    page.evaluate(
        """async (texts) => {
          const main = document.querySelector("main");
          main.replaceChildren();
          const rows = texts.map((text, place) => [`row ${place}`, text, ["3 of 4", "x"][place % 2]]);
          await Asft.table.plain(main, { title: "made up", header: ["row", "score", "words"], rows });
        }""",
        texts,
    )
    head = page.locator(".tabulator-col", has_text="score")
    expected = ["−2.0", "< 0.001", "9.0 (8.0 to 9.9)", "+10.5 ✓", "37.2 (35.0 to 39.4)", "1,234"]
    for order in (expected, expected[::-1]):
        head.click()
        shown = page.locator(".tabulator-row .tabulator-cell:nth-child(2)").all_inner_texts()
        assert shown[:6] == order
        assert set(shown[6:]) == {"–", ""}


def test_two_pairs_of_one_name_are_told_apart(chromium: Browser, tmp_path: Path) -> None:
    overrides = ["method=sft", "model.seed=0,1", f"outputs={tmp_path}"]
    for job in enumerate_cells(overrides, sweep=True).cells:
        write_cell(job, 10, 10)
    site = Site(Store(tmp_path), [], tmp_path / "dashboard")
    site.build()
    page = chromium.new_page()
    page.goto(f"{site.index.as_uri()}#/curves")
    expect(page.locator(".mark-line.role-mark path")).to_have_count(2)
    with redrawn(page):
        page.evaluate("location.hash = '#/pareto'")
    page.get_by_text("model: all").click()
    page.get_by_label("tiny_llama (seed=1)").check()
    expect(page.locator("#status")).to_have_text("1 of 2 cells")
    page.close()


def test_verdicts_are_held_against_every_other_judge(chromium: Browser, tmp_path: Path) -> None:
    site, key = build_judged(tmp_path)
    page = chromium.new_page()
    page.goto(f"{site.index.as_uri()}#/generations/{key}?verdict=disagree")
    expect(page.locator(".answers h3")).to_have_text(["malicious/0", "malicious/4"])
    page.get_by_label("answers to").select_option("FA")
    expect(page.get_by_label("verdict").locator("option", has_text="judges disagree")).to_have_count(0)
    page.close()


def test_judges_that_disagree_can_be_found(watched: Watched, site: Site) -> None:
    key = next(key for key, row in site.rows.items() if row["judge"] == "other")
    page = watched.open(f"#/generations/{key}")
    page.get_by_label("verdict").select_option("disagree")
    expect(page.get_by_text("Against judge refusal on the same answers.")).to_be_visible()
    expect(page.locator(".answers > li")).not_to_have_count(0)


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("#/table/..%2F..%2Fother", "there is no experiment ../../other"),
        ("#/table/%E0%A4%A", "there is no experiment"),
        ("#/generations/feed", "no finished cell feed"),
        ("#/anchors/..%2Fother", "there is no page anchors"),
        ("#/landscape/..%2Fother", "there is no landscapes/../other"),
        ("#/nowhere", "there is no page nowhere"),
    ],
)
def test_a_link_that_leads_nowhere_says_so(watched: Watched, view: str, words: str) -> None:
    page = watched.open(view)
    expect(page.locator("[role=alert]")).to_contain_text(words)
    assert not [url for url in watched.requests if "other.js" in url]


def test_a_table_without_a_cell_names_its_command(watched: Watched) -> None:
    page = watched.open("#/table/demo_real")
    expect(page.locator("code", has_text="asft run -m experiment=demo_real")).to_be_visible()
    expect(page.locator("[role=alert]")).to_have_count(0)


def test_the_keyboard_reaches_filters_and_theme(watched: Watched) -> None:
    page = watched.open("#/pareto")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.get_by_role("button", name="Light or dark").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") != before
    page.locator(".filters summary", has_text="method").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator(".filters details.on")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".filters details[open]")).to_have_count(0)
