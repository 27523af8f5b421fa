"""The dashboard's files, without a browser: what is written once, what anew, and how it is served."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from synthetic_store import write_cell

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.commands.dashboard import dashboard
from asft.config import ConfigError
from asft.dashboard import Site
from asft.dashboard.serve import start_server
from asft.dashboard.site import fingerprint
from asft.dashboard.tables import enumerate_experiment

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


def test_the_index_has_scores_with_intervals(site: Site) -> None:
    site.build()
    (row,) = data(site, "index")["cells"]
    assert row["hs_interval"][0] <= row["hs"] <= row["hs_interval"][1]
    assert row["fa_interval"][0] <= row["fa"] <= row["fa_interval"][1]
    assert (row["method"], row["training"], row["harmful"], row["task"]) == ("sft", "lora", 10, 10)
    assert data(site, f"curves/{row['train']}")["step"] == list(range(1, 11))


def test_an_untouched_model_does_not_claim_an_attack(site: Site, first: Job) -> None:
    base = enumerate_cells(["method=base", f"outputs={first.options.outputs}"], sweep=False).cells[0]
    write_cell(base, 10, 10)
    site.build()
    row = next(row for row in site.rows.values() if row["method"] == "base")
    assert (row["source"], row["p"], row["n"], row["seed"], row["train"]) == (None,) * 5


def test_a_new_site_forgets_cells_that_are_gone(site: Site, first: Job) -> None:
    site.build()
    stale = site.folder / "data" / "cells" / "gone.js"
    stale.write_text("")
    Site(site.store, [], site.folder).build()
    assert not stale.exists()


def test_an_experiment_that_lacks_a_setting_says_so(tmp_path: Path) -> None:
    experiment = enumerate_experiment("demo_real", [f"outputs={tmp_path}"])
    assert experiment.sweep is None
    assert "data.root" in experiment.problem


def test_the_site_is_served_on_this_machine_only(site: Site) -> None:
    site.build()
    server = start_server(site, 0)
    try:
        assert server.server_address[0] == "127.0.0.1"
        with urlopen(f"http://127.0.0.1:{server.server_port}/data/version.js") as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert data(site, "version").encode() in answer.read()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--port", "--port: unknown flag; allowed: -m, --multirun, --serve"),
        ("--serve=x", "--serve or --serve=PORT"),
        ("experiment=table99", "experiment=table99: unknown. Allowed: demo"),
    ],
)
def test_a_mistake_names_what_is_allowed(argument: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dashboard([argument, f"outputs={tmp_path}"])
