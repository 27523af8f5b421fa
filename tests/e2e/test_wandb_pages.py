"""A workspace and a report reach a server that speaks W&B's protocol, and show an experiment as its table does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb_workspaces", reason="the workspaces extra is not installed")

import wandb
from wandb_server import Server, wandb_server

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.commands import wandb_pages
from asft.commands.run import sweep_name
from asft.commands.track import track
from asft.commands.wandb_pages import save_pages
from asft.config import ConfigError
from asft.report.charts import CURVES

pytestmark = pytest.mark.slow
DEMO = ("experiment=demo", "method=sft,asft", "attack.p=0.1")
ONLINE = ["tracker=wandb", "tracker.mode=online"]


@lru_cache
def jobs(*overrides: str) -> list[Job]:
    return list(enumerate_cells([*ONLINE, *overrides], sweep=True).cells)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with wandb_server() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", running.url)
        patch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
        yield running


@pytest.fixture(scope="module")
def saved(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Both pages of a demo, saved twice; by the type of view."""
    folder = tmp_path_factory.mktemp("pages")
    both = ("workspace", "report")
    first = save_pages(jobs(*DEMO), of=both, folder=folder)
    assert save_pages(jobs(*DEMO), of=both, folder=folder) == first
    assert len(server.views) == 2, "saved again, a page replaces itself"
    return {view["type"]: {**view, "spec": json.loads(view["spec"])} for view in server.views.values()}


def panels(section: dict[str, Any]) -> dict[str, list[str]]:
    """The summary metrics or logged quantities of each panel, by its title."""
    configs = [panel["config"] for panel in section["panels"]]
    return {config["chartTitle"]: config.get("metrics") or [config["xAxis"], config["yAxis"]] for config in configs}


def test_the_workspace_groups_the_tables_runs_and_draws_its_figures(saved: dict[str, dict[str, Any]]) -> None:
    view = saved["project-view"]
    assert view["displayName"] == sweep_name(jobs(*DEMO), "demo")
    assert view["projectName"] == "asft-lab"
    (runs,) = view["spec"]["section"]["runSets"]
    assert [group["name"] for group in runs["grouping"]] == ["jobType", "group"]
    (chosen,) = runs["filters"]["filters"]
    assert (chosen["key"], chosen["op"]) == ({"section": "run", "name": "name"}, "IN")
    assert set(chosen["value"]) == {job.key for job in jobs(*DEMO)}
    table, training = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert list(panels(table).values()) == [["hs"], ["fa"], ["summary:hs", "summary:fa"]]
    assert panels(training) == {title: [f"train/{name}"] for name, title in CURVES.items()}


def test_the_report_has_a_run_set_beneath_the_figures(saved: dict[str, dict[str, Any]]) -> None:
    grids = [block for block in saved["runs"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    table, training = (grid["metadata"] for grid in grids)
    (runs,) = table["runSets"]
    assert [group["name"] for group in runs["grouping"]] == ["jobType", "group"]
    assert jobs(*DEMO)[-1].key in json.dumps(runs["filters"])
    shown = [panels(grid["panelBankSectionConfig"]) for grid in (table, training)]
    assert list(shown[0].values()) == [["hs"], ["fa"], ["summary:hs", "summary:fa"]]
    assert set(shown[1]) == set(CURVES.values())


def test_a_measures_page_draws_its_headline(server: Server, tmp_path: Path) -> None:
    save_pages(jobs("experiment=table1", "measure.update=harmful", "attack.n=10"), of=["workspace"], folder=tmp_path)
    view = next(view for view in server.views.values() if view["displayName"].startswith("table1_"))
    (section,) = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert panels(section) == {"abs_cos": ["abs_cos"]}


def test_another_project_gets_a_page_of_its_own(server: Server, tmp_path: Path) -> None:
    here = save_pages(jobs(*DEMO), of=["workspace"], folder=tmp_path)
    there = save_pages(jobs(*DEMO, "tracker.project=other"), of=["workspace"], folder=tmp_path)
    assert here != there
    assert [view["projectName"] for view in server.views.values()].count("other") == 1


def test_other_cells_under_one_name_have_pages_of_their_own(server: Server, tmp_path: Path) -> None:
    sweeps = [jobs(*DEMO), jobs(*DEMO, "model=tiny_qwen2"), jobs("method=sft,l2"), jobs("method=sft,asft")]
    found = [save_pages(cells, of=["report"], folder=tmp_path) for cells in sweeps]
    assert len({address for (address,) in found}) == 4
    titles = {view["displayName"] for view in list(server.views.values())[-4:]}
    assert len(titles) == 4


def test_a_report_says_what_its_panels_leave_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_pages, "MOST", 1)
    save_pages(jobs(*DEMO), of=["report"], folder=tmp_path)
    assert "Each panel shows 1 of these 2 runs." in list(server.views.values())[-1]["spec"]


def test_a_page_that_was_deleted_is_made_again(server: Server, tmp_path: Path) -> None:
    both, few = ("workspace", "report"), jobs(*DEMO)
    save_pages(few, of=both, folder=tmp_path)
    kept = dict(server.views)
    server.views.clear()
    save_pages(few, of=both, folder=tmp_path)
    assert len(server.views) == 2
    server.views.update(kept)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tracker=tensorboard"], "tracker=tensorboard: --workspace and --report are pages of W&B"),
        (["tracker=wandb"], "tracker.mode=offline: W&B's server keeps workspaces"),
    ],
)
def test_what_can_keep_no_page_is_refused_first(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        track(["experiment=demo", "--workspace", *overrides, f"outputs={tmp_path}"])


def test_without_the_package_or_a_key_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()  # it remembers the key that it saw first
    with pytest.raises(ConfigError, match="wandb login"):
        save_pages(jobs(*DEMO), of=["workspace"], folder=tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"asft-lab\[workspaces\]"):
        track(["experiment=demo", "--report", *ONLINE, f"outputs={tmp_path}"])
