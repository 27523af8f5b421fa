"""Every launcher gives the scores of a plain sweep, with the threads of a worker set."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import Cli, nightly

from asft.cells.compose import config_dir, enumerate_cells, one_line, threads_per_worker
from asft.cells.job import Job
from asft.pipeline.run import run_cell
from asft.store.entries import Store

PLUGINS = {
    "workers": "hydra_joblib_launcher",
    "jobs": "hydra_submitit_launcher",
    "ray_workers": "hydra_ray_launcher",
}


def scores(jobs: list[Job], outputs: Path) -> dict[str, Any]:
    found = {job.key: Store(outputs).find("cells", job.key) for job in jobs}
    return {key: entry.result["metrics"] if entry else None for key, entry in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen",
    [
        "workers=2",
        "hydra/launcher=workers hydra.launcher.n_jobs=1",
        *(nightly(f"hydra/launcher={name}") for name in PLUGINS),
    ],
)
def test_a_launcher_gives_the_scores_of_a_plain_sweep(
    chosen: str, cli: Cli, pair_overrides: list[str], tmp_path: Path
) -> None:
    if plugin := PLUGINS.get(chosen.split()[0].removeprefix("hydra/launcher=")):
        pytest.importorskip(f"hydra_plugins.{plugin}")
    options = ["experiment=table2", *pair_overrides, "method=sft,asft", "attack.p=0.5"]
    jobs = enumerate_cells(options, sweep=True).cells
    for job in jobs:
        run_cell(replace(job, options=replace(job.options, outputs=tmp_path / "plain")))
    shown = cli("run", "-m", *options, *chosen.split())
    assert shown.returncode == 0, shown.stderr
    assert None not in scores(jobs, tmp_path / "plain").values()
    assert scores(jobs, tmp_path / "outputs") == scores(jobs, tmp_path / "plain")


def test_threads_of_all_workers_together_are_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [threads_per_worker(workers) for workers in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_per_worker(2) == 5


@pytest.mark.parametrize("name", [*PLUGINS, "slurm"])
def test_a_launcher_sets_the_threads_of_its_workers(name: str) -> None:
    pytest.importorskip(f"hydra_plugins.{PLUGINS.get(name, PLUGINS['jobs'])}")
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=[f"hydra/launcher={name}"], return_hydra_config=True)
    assert int(config.hydra.job.env_set.OMP_NUM_THREADS) >= 1


@pytest.mark.parametrize(
    ("base", "ours", "extra"),
    [("joblib", "workers", "joblib"), ("ray", "ray_workers", "ray"), ("submitit_slurm", "slurm", "slurm")],
)
def test_a_launcher_that_is_not_installed_says_what_to_install(base: str, ours: str, extra: str) -> None:
    """Ours are built on Hydra's, which is what Hydra misses, be ours chosen or its own."""
    nested = f"In 'hydra/launcher/{ours}': Could not load 'hydra/launcher/{base}'.\n\nConfig search path:"
    for error in (nested, hydra_knows_no(base)):
        told = one_line(Exception(error))
        assert told == f'hydra/launcher={ours}: needs another package: pip install "asft-lab[{extra}]"'
    assert (config_dir() / "hydra" / "launcher" / f"{ours}.yaml").exists()
    told = one_line(Exception(hydra_knows_no("wrokers")))
    assert told == "hydra/launcher=wrokers: unknown; did you mean workers? Allowed: basic, workers"


def hydra_knows_no(launcher: str) -> str:
    options = "Available options in 'hydra/launcher':\n\tbasic\n\tworkers\n\nConfig search path:\n\t…"
    return f"Could not find 'hydra/launcher/{launcher}'\n\n{options}"
