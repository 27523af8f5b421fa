"""The dashboard's files, without a browser: what is written once, what anew, and how it is served."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from helpers import read_jsonl
from synthetic_store import write_beside, write_cell

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.commands.dashboard import dashboard
from asft.config import ConfigError
from asft.dashboard import Site
from asft.dashboard.cells import name_apart
from asft.dashboard.cells import write_cell as write_data_of_cell
from asft.dashboard.serve import Server, start_server
from asft.dashboard.site import fingerprint
from asft.dashboard.tables import enumerate_experiment, experiment_page
from asft.store.entries import write_jsonl

pytestmark = pytest.mark.slow


@pytest.fixture
def first(tmp_path: Path) -> Job:
    return enumerate_cells(["method=sft", f"outputs={tmp_path}"], sweep=False).cells[0]


@pytest.fixture
def site(first: Job) -> Site:
    write_cell(first, 10, 10)
    return Site(first.store, [], first.options.outputs / "dashboard")


def data(site: Site, name: str) -> Any:
    """The value that a data file hands to the page."""
    match = re.fullmatch(r'Asft\.put\("(.*?)",(.*)\);\n', (site.folder / "data" / f"{name}.js").read_text(), re.S)
    assert match is not None
    assert match[1] == name
    return json.loads(match[2])


def test_a_later_build_adds_what_is_new_and_leaves_the_rest(site: Site, first: Job) -> None:
    before = site.build()
    (old,) = (site.folder / "data" / "cells").iterdir()
    written = old.stat().st_mtime_ns
    version, seen = data(site, "version"), fingerprint(site.store)
    write_cell(first.of(replace(first.cell, seed=1)), 10, 10)
    assert fingerprint(site.store) != seen
    after = site.build()
    assert (before.cells, after.cells, after.answers) == (1, 2, 40)
    assert old.stat().st_mtime_ns == written
    assert data(site, "version") != version
    assert data(site, "index")["version"] == data(site, "version")


def test_the_index_has_scores_with_intervals(site: Site) -> None:
    site.build()
    (row,) = data(site, "index")["cells"]
    assert (row["method"], row["training"], list(row["metrics"])) == ("sft", "lora", ["HS", "FA"])
    for score in row["metrics"].values():
        assert score["interval"][0] <= score["value"] <= score["interval"][1]
        assert score["total"] == 10
    assert data(site, f"curves/{row['train']}")["step"] == list(range(1, 11))


def test_an_untouched_model_does_not_claim_an_attack(site: Site, first: Job) -> None:
    base = enumerate_cells(["method=base", f"outputs={first.options.outputs}"], sweep=False).cells[0]
    write_cell(base, 10, 10)
    site.build()
    row = next(row for row in site.rows.values() if row["method"] == "base")
    assert (row["source"], row["p"], row["n"], row["seed"], row["train"]) == (None,) * 5


def shown(site: Site, key: str) -> dict[str, list[dict[str, Any]]]:
    """A cell's answers as the page has them, by metric."""
    pieces = data(site, f"cells/{key}")["pieces"]
    return {name: [row for part in parts for row in data(site, part)] for name, parts in pieces.items()}


def test_only_what_is_known_to_be_harmless_may_be_shown(site: Site, first: Job) -> None:
    """Coherence reads HS's answers and judges none of them; a metric from elsewhere asks nobody knows what."""
    rows = {name: read_jsonl(site.store.path("cells", first.key) / f"{name}.jsonl") for name in ("HS", "FA")}
    unjudged = [{key: row[key] for key in ("id", "prompt", "gold", "answer", "credit")} for row in rows["HS"]]
    stranger = {"id": "malicious/99", "prompt": "", "gold": "", "answer": "", "credit": 1.0}
    for name, kept in {"coherence": [*unjudged, stranger], "OR": rows["FA"]}.items():
        write_beside(first, name, kept)
    judged = {**first.plan.beside["ability"]["judged"], "code": "1/from-elsewhere"}
    first.plan.beside["ability"]["judged"] = judged
    write_beside(first, "ability", rows["FA"])
    site.build()
    answers = shown(site, first.key)
    flags = [row["flagged"] for row in rows["HS"]]
    assert {True, False} == set(flags)
    for name in ("HS", "coherence"):
        assert [row["flagged"] for row in answers[name][:10]] == flags
        assert not any(row.get("harmless") for row in answers[name])
    assert "flagged" not in answers["coherence"][-1]
    assert [{row["harmless"] for row in answers[name]} for name in ("FA", "OR", "ability")] == [{True}, {True}, {False}]


def test_an_answer_without_a_verdict_is_not_called_safe(first: Job) -> None:
    entry = write_cell(first, 1, 1)
    (row,) = read_jsonl(entry.path / "HS.jsonl")
    write_jsonl(entry.path / "HS.jsonl", [{**row, "flagged": False, "details": {"read": False}}])
    site = Site(first.store, [], first.options.outputs / "dashboard")
    write_data_of_cell(site.folder, entry, first.plain(), {})
    (answer,) = shown(site, first.key)["HS"]
    assert ("flagged" in answer, answer["harmless"]) == (False, False)


def test_a_new_site_forgets_cells_that_are_gone(site: Site, first: Job) -> None:
    site.build()
    stale = site.folder / "data" / "cells" / "gone.js"
    stale.write_text("")
    Site(site.store, [], site.folder).build()
    assert not stale.exists()


def test_what_finishes_during_a_build_is_seen_afterwards(site: Site, first: Job) -> None:
    late = first.of(replace(first.cell, seed=1))
    tables = site._write_tables
    site._write_tables = lambda: write_cell(late, 10, 10) and tables()  # type: ignore[method-assign, return-value]
    site.build()
    assert site.seen != fingerprint(site.store)
    site._write_tables = tables  # type: ignore[method-assign]
    site.build()
    assert late.key in site.rows
    assert site.seen == fingerprint(site.store)


def test_a_heartbeat_is_no_reason_to_build(site: Site, first: Job) -> None:
    before = fingerprint(site.store)
    with site.store.claim("0" * 20, wait=False):
        assert fingerprint(site.store) == before
    site.store.record_failure("0" * 20, "out of memory", first.plain(), "")
    assert fingerprint(site.store) != before


def test_a_later_build_forgets_what_is_gone(site: Site, first: Job) -> None:
    other = first.of(replace(first.cell, seed=1))
    write_cell(other, 10, 10)
    site.build()
    rmtree(site.store.path("cells", first.key))
    assert site.build().cells == 1
    assert [cell["key"] for cell in data(site, "index")["cells"]] == [other.key]
    assert [path.name for path in (site.folder / "data" / "answers").iterdir()] == [other.key]
    assert not (site.folder / "data" / "cells" / f"{first.key}.js").exists()


def test_pages_name_neither_the_home_folder_nor_how_cells_are_run(
    site: Site, first: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = str(first.options.outputs.parent)
    monkeypatch.setenv("HOME", home)
    site.store.record_failure("0" * 20, f"{home}/x: is missing", first.plain(), f'File "{home}/y.py", line 1')
    site.build()
    (failure,) = data(site, "index")["failures"]
    assert (failure["message"], failure["trace"]) == ("~/x: is missing", 'File "~/y.py", line 1')
    shown = data(site, f"cells/{first.key}")["config"]
    assert not {"outputs", "device", "workers", "tracker.name"} & shown.keys()


def test_a_damaged_score_beside_does_not_hide_its_cell(site: Site, first: Job) -> None:
    rows = read_jsonl(site.store.path("cells", first.key) / "FA.jsonl")
    write_beside(first, "OR", rows)
    broken = write_beside(first, "ability", rows)
    (broken.path / "ability.jsonl").write_text((broken.path / "ability.jsonl").read_text().replace("task/0", "task/x"))
    unreadable = write_beside(first, "coherence", rows)
    (unreadable.path / "manifest.json").write_text("{")
    for _ in range(2):
        assert site.build().failures == 2
        assert list(site.rows[first.key]["metrics"]) == ["HS", "FA", "OR"]
    failures = data(site, "index")["failures"]
    assert {line["key"] for line in failures} == {broken.path.name, unreadable.path.name}


def test_what_cells_are_scored_by_comes_before_what_is_beside(first: Job) -> None:
    """Whichever cell comes first: one without FA must not make another metric the usual axis."""
    without = first.of(replace(first.cell, seed=1, metrics={"HS": first.cell.metrics["HS"]}))
    for job in (first, without):
        entry = write_cell(job, 10, 10)
        write_beside(job, "OR", read_jsonl(entry.path / "HS.jsonl"))
    site = Site(first.store, [], first.options.outputs / "dashboard")
    for key in (without.key, first.key):
        entry = site.store.read("cells", key)
        assert entry
        site._add_cell(entry, site._beside([]).get(key, {}))
    site.build()
    assert [metric["name"] for metric in data(site, "index")["metrics"]] == ["HS", "FA", "OR"]


def test_pairs_and_trainings_are_told_apart_where_they_differ(site: Site, first: Job) -> None:
    site.build()
    assert data(site, "index")["cells"][0]["model"] == "tiny_llama"
    for changes in (["model.seed=1"], ["training.epochs=2", "training.lr=0.5", "attack.mix=append"]):
        overrides = ["method=sft", f"outputs={first.options.outputs}", *changes]
        write_cell(enumerate_cells(overrides, sweep=False).cells[0], 10, 10)
    site.build()
    found = {(row["model"], row["training"], row["source"]) for row in data(site, "index")["cells"]}
    assert found == {
        ("tiny_llama (seed=0)", "lora", "harmful"),
        ("tiny_llama (seed=1)", "lora", "harmful"),
        ("tiny_llama (seed=0)", "lora epochs=2", "harmful mix=append"),
    }


def test_a_path_is_told_by_its_last_part_where_that_is_enough() -> None:
    def names(*bases: str) -> list[str]:
        rows = [{"model": "pair", "judge": "j", "settings": {"model": {"base": base}, "judge": {}}} for base in bases]
        return [row["model"] for row in name_apart(rows)]

    assert names("/models/a", "/models/b/") == ["pair (base=a)", "pair (base=b)"]
    assert names("/one/a", "/two/a") == ["pair (base=/one/a)", "pair (base=/two/a)"]
    assert names("/one/a", "/one/a") == ["pair", "pair"]


def test_an_experiment_with_an_axis_too_many_says_so(tmp_path: Path) -> None:
    line, table = experiment_page(enumerate_experiment("demo", [f"outputs={tmp_path}", "model.seed=0,1"]))
    assert "model.seed=0 and 1" in line["problem"]
    assert table is None


def test_an_experiment_that_lacks_a_setting_says_so(tmp_path: Path) -> None:
    experiment = enumerate_experiment("demo_real", [f"outputs={tmp_path}"])
    assert experiment.sweep is None
    assert "data.root" in experiment.problem


@pytest.fixture
def server(site: Site) -> Iterator[Server]:
    site.build()
    server = start_server(site, 0)
    yield server
    server.shutdown()
    server.server_close()


def status(server: Server, path: str, **headers: str) -> int:
    try:
        with urlopen(Request(f"http://127.0.0.1:{server.server_port}{path}", headers=headers)) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_the_site_is_served_on_this_machine_only(site: Site, server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with urlopen(f"{server.link}data/version.js") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert data(site, "version").encode() in answer.read()


@pytest.mark.parametrize(
    "host", ["evil.test", "127.0.0.1", "127.0.0.1:1", "evil.localhost:{}", "0.0.0.0:{}", "[::1]:{}"]
)
def test_no_other_host_is_answered(server: Server, host: str) -> None:
    path = f"/{server.token}/data/version.js"
    assert status(server, path, Host=host.format(server.server_port)) == 403
    assert status(server, path, Host=f"localhost:{server.server_port}") == 200


@pytest.mark.parametrize(("site_of_the_page", "code"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
def test_no_page_of_another_origin_is_answered(server: Server, site_of_the_page: str, code: int) -> None:
    assert status(server, f"/{server.token}/data/version.js", **{"Sec-Fetch-Site": site_of_the_page}) == code


def test_nothing_is_answered_without_the_token(server: Server) -> None:
    for path in (
        "/",
        "/index.html",
        "/data/version.js",
        f"/{server.token}",
        f"/{server.token[:-1]}/",
        "//",
        f"/x/{server.token}/",
    ):
        assert status(server, path) == 403, path
    assert status(server, f"/{server.token}/") == 200


def test_no_link_is_followed_and_no_folder_listed(site: Site, server: Server, tmp_path: Path) -> None:
    (secret := tmp_path / "secret").mkdir()
    (secret / "index.html").write_text("secret")
    (site.folder / "file.js").symlink_to(secret / "index.html")
    (site.folder / "folder").symlink_to(secret)
    (site.folder / "inside.html").symlink_to(site.folder / "index.html")
    (site.folder / "page").mkdir()
    (site.folder / "page" / "index.html").symlink_to(secret / "index.html")
    for path in (
        "file.js",
        "folder/",
        "folder/index.html",
        "inside.html",
        "page/",
        "page",
        "data",
        "data/",
        "..%2f..%2fsecret/index.html",
    ):
        assert status(server, f"/{server.token}/{path}") == 404, path


def test_an_experiment_of_ones_own_folder_has_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nexperiment: {name: mine, title: Mine, columns: attack.p, column_title: p}\n"
    text += "hydra: {sweeper: {params: {method: 'aligned,sft', attack.p: 0.1}}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    words = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", f"outputs={tmp_path / 'out'}"]
    for job in enumerate_cells(words, sweep=True).cells:
        write_cell(job, 10, 10)
    assert dashboard(words) == 0
    assert "1 of 1 experiments have finished cells" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--port", "--port: unknown flag. Allowed: -m, --multirun, --serve"),
        ("--serve=x", "--serve: x: allowed: a whole number, from 0 to 65535"),
        ("experiment=demmo", "experiment=demmo: unknown; did you mean demo? Allowed: attacker, demo"),
    ],
)
def test_a_mistake_names_what_is_allowed(argument: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dashboard([argument, f"outputs={tmp_path}"])
