"""From a sweep's cells to records: what is missing and why, and which rows are the same in every column."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from refusals import refuses
from synthetic_store import write_cell, write_measure

from asft.cells.compose import Sweep, enumerate_cells
from asft.dashboard.tables import table_data
from asft.pipeline.tracked import cell_run
from asft.report.collect import analysis_of, cells_of, column_free, table_spec
from asft.report.table import Table
from asft.store.entries import remove
from asft.store.schemas import CONFIG_FILE

Overrides = list[str]


def of(experiment: str, pair: Overrides, *axes: str) -> Sweep:
    kept = [text for text in pair if text.partition("=")[0] not in {axis.partition("=")[0] for axis in axes}]
    return enumerate_cells([f"experiment={experiment}", *kept, *axes], sweep=True)


@pytest.mark.parametrize("kind", ["cells", "measures"])
def test_damage_failure_and_absence_are_told_alike_of_scores_and_measures(pair_overrides: Overrides, kind: str) -> None:
    chosen = {"measures": ("table1", "measure.update=random", "attack.n=24"), "cells": ("table2", "method=aligned")}
    name, *axes = chosen[kind]
    sweep = of(name, pair_overrides, *axes, *(["attack.p=0.1"] if kind == "cells" else []))
    (item,) = sweep.cells
    store = item.store

    def told() -> tuple[str, str]:
        (cell,) = cells_of(sweep)
        return cell.status, cell.reason

    assert told() == ("missing", "")

    entry = write_measure(item, 0.5, {"null": [0.1, 0.2]}) if kind == "measures" else write_cell(item, 1, 1)
    (entry.path / CONFIG_FILE).write_text("{}")
    status, reason = told()
    assert status == "failed"
    assert "were written" in reason
    store.record_failure(item.key, "out of memory", {}, "")
    assert told() == ("failed", "out of memory")
    with store.claim(item.key, wait=False):
        assert told() == ("missing", f"at work on {socket.gethostname()}:{os.getpid()}")


def test_what_is_passed_on_names_no_folder_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["experiment=table2", "method=sft", "attack.p=0.1", "model=pair", "data=hub", "workers=7", "tracker=wandb"]
    words += [f"{key}={tmp_path / key}" for key in ("model.base", "model.aligned", "outputs")] + ["tracker.entity=me"]
    sweep = enumerate_cells(words, sweep=True)
    (job,) = sweep.cells
    write_cell(job, 2, 2)
    analysis = analysis_of(sweep, f"asft run -m {' '.join(words)}")
    config, run = analysis.results[0].config, cell_run(job)
    assert config == run.config
    assert not {"outputs", "device", "workers", "tracker"} & config.keys()
    assert config["model"]["base"] == "~/model.base"
    assert "model.base=~/model.base" in run.place
    assert str(tmp_path) not in json.dumps(table_data(analysis))
    monkeypatch.setattr(type(job.store), "failure", lambda store, key: f"{tmp_path}/x: is missing")
    remove(job.store.path("cells", job.key))
    assert cells_of(sweep)[0].reason == "~/x: is missing"


def test_rows_that_do_not_depend_on_the_column_are_known_over_seeds_too(pair_overrides: Overrides) -> None:
    sweep = of("table1", pair_overrides, "measure.update=harmful,random", "attack.n=24,48", "seed=0,1")
    assert column_free(sweep, lambda item: item.axes["measure.update"], "attack.n") == {"random"}
    places = {(cell.row, cell.column) for cell in cells_of(sweep)}
    assert places == {("harmful", 24), ("harmful", 48), ("random", None)}
    scored = of("table2", pair_overrides, "method=aligned,sft", "attack.p=0.1,0.2", "seed=0,1")
    assert column_free(scored, lambda item: item.cell.method.name, "attack.p") == {"aligned"}
    tasks = of("table5", pair_overrides, "method=aligned", "dataset=agnews,sst2", "seed=0,1,2")
    assert column_free(tasks, lambda item: item.cell.method.name, "dataset") == set(), "it is asked another task"
    assert {cell.column for cell in cells_of(tasks)} == {"agnews", "sst2"}
    both = of("table5", pair_overrides, "method=aligned,sft", "dataset=agnews,sst2")
    table = Table(table_spec(both, ""), cells_of(both))
    assert (table.untouched("aligned"), table.untouched("sft")) == (True, False)


def test_an_axis_that_the_table_has_no_place_for_is_named(pair_overrides: Overrides) -> None:
    sweep = of("table2", pair_overrides, "method=sft", "attack.p=0.1", "training.lr=1e-4,2e-4")
    with refuses("training.lr=0.0001 and 0.0002 of row sft have one place"):
        cells_of(sweep)
