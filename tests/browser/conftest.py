"""A small made-up store as a built site, and a headless browser that opens it from disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the browser extra is not installed")

from playwright.sync_api import Browser, Page, Request, expect
from screenshots import browser, chromium_path
from synthetic_store import plain_answer, write_cell

from asft.compose import enumerate_cells
from asft.dashboard import Site
from asft.dashboard.tables import Experiment
from asft.evaluation.judge import Judge
from asft.keys import plan
from asft.store import Store

MARKUP = [
    "<script>document.title = 'broken'</script>",
    "</table><img src=x onerror=\"document.title = 'broken'\">",
    "<a href=\"javascript:document.title='broken'\">a</a> javascript:alert(1)",
    "]]></script><!-- \u2028 \\ `${document.title = 'broken'}`",
]
OVERRIDES = ["experiment=demo", "method=base,aligned,sft,asft,l2", "attack.p=0,0.1"]


class OtherJudge(Judge):
    """Stands for another judge of the same answers."""

    name = "other"


def answer(number: int) -> str:
    return MARKUP[number] if number < len(MARKUP) else plain_answer(number)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Cells with 60 and 520 answers (the task's come in two pieces), one failure, and one of each extra."""
    outputs = tmp_path_factory.mktemp("dashboard")
    store = Store(outputs)
    sweep = enumerate_cells([*OVERRIDES, f"outputs={outputs}"], sweep=True)
    failed = sweep.cells[-1].cell
    for item in sweep.cells[:-1]:
        write_cell(store, item.cell, 60, 520, answer=answer)
    store.record_failure(plan(failed).key, "out of memory <b>here</b>", failed.plain(), "")
    write_cell(store, replace(sweep.cells[4].cell, judge=OtherJudge()), 60, 520, answer=answer)
    extras = {
        "landscapes/plane/grid.json": {
            "title": "Around the aligned model",
            "axes": [{"name": "α", "values": [-1, 0, 1]}, {"name": "β", "values": [-1, 0, 1]}],
            "hs": [[90, 40, 80], [30, 0, 20], [95, 50, 99]],
            "epl": {"value": 0.4, "threshold": 10},
        },
        "reports/anchor_tiny_llama_asft/spectrum.json": {"summary": "No: made up.", "modules": [MODULE]},
    }
    for name, value in extras.items():
        (outputs / name).parent.mkdir(parents=True)
        (outputs / name).write_text(json.dumps(value))
    experiments = [Experiment("demo", sweep=sweep), Experiment("demo_real", problem="data.root=null: needs data")]
    built = Site(store, experiments, outputs / "dashboard")
    built.build()
    return built


MODULE = {
    "name": "model.layers.0.self_attn.q_proj",
    "out_features": 32,
    "norm": 0.5,
    "eigenvalues": [0.2, 0.1, 0.05],
    "spectral_distance": 0.2,
    "entropy_rank": 2.1,
    "mean_decay": 0.98,
    "noticeable": 1,
    "verdict": "Slightly.",
}


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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if chromium_path() is None:
        pytest.skip("no chromium on the path")
    with browser() as started:
        yield started


@pytest.fixture
def watched(chromium: Browser, site: Site) -> Iterator[Watched]:
    """A new page; at the end it must have had no error and have asked nobody else for anything."""
    page = chromium.new_page()
    page.set_default_timeout(8000)
    found = Watched(page, site.index)
    page.on("console", lambda message: message.type in ("error", "warning") and found.problems.append(message.text))
    page.on("pageerror", lambda error: found.problems.append(str(error)))
    page.on("request", lambda request: _note(found, request))
    yield found
    page.close()
    assert not found.problems
    strangers = [
        url for url in found.requests if not url.startswith((site.folder.as_uri(), "data:", "blob:", "about:"))
    ]
    assert not strangers


def _note(found: Watched, request: Request) -> None:
    found.requests.append(request.url)
