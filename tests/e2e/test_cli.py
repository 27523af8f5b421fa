"""The command line as a user types it, from another folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli

pytestmark = pytest.mark.slow


def test_usage_names_every_command(cli: Cli) -> None:
    shown = cli("--help")
    assert shown.returncode == 0
    for command in ("run", "report", "status", "judge", "plan", "doctor", "align", "anchor inspect", "project"):
        assert f"asft {command}" in shown.stdout


@pytest.mark.parametrize("command", ["status", "align", "report", "anchor", "judge", "plan", "doctor"])
def test_every_command_answers_help(cli: Cli, command: str) -> None:
    shown = cli(command, "--help")
    assert shown.returncode == 0
    assert f"asft {command}" in shown.stdout


def test_an_unknown_command_names_the_allowed_ones(cli: Cli) -> None:
    shown = cli("rnu")
    assert shown.returncode == 2
    assert "unknown command rnu; allowed: run, report" in shown.stderr


def test_an_unknown_flag_is_not_passed_over(cli: Cli) -> None:
    shown = cli("status", "--frobnicate", "experiment=demo")
    assert shown.returncode == 2
    assert "--frobnicate: unknown flag; allowed: -m, --multirun, and KEY=VALUE" in shown.stderr


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("asft-lab 0.")


def test_cfg_job_prints_the_configuration(cli: Cli) -> None:
    shown = cli("run", "--cfg", "job", "--resolve", "method=asft")
    assert shown.returncode == 0
    assert "lam: 1.0" in shown.stdout
    assert "lr: 0.0" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "attack.p=1.5"], "attack.p=1.5"),
        (["run", "method=nope"], "Allowed: aligned, asft"),
        (["run", "metod=asft"], "did you mean method?"),
        (["run", "-m", "experiment=table2", "attack.q=1"], "attack.q: unknown key"),
        (["run", "experiment"], "not of the form KEY=VALUE"),
        (["run", "="], "=: not of the form KEY=VALUE"),
        (["run", "model=smollm2_135m", "data.root=nowhere"], "data.root=nowhere: no folder ft_datasets"),
        (["report", "method=asft"], "name one, e.g. experiment=table2"),
        (["report", "experiment=table2"], "none of its"),
        (["run", "method=sft", "outputs=/etc/hostname"], "/etc/hostname"),
        (["run", "outputs="], "name a folder"),
        (["run", "-m", "method=glob(*)"], "list the values"),
        (["run", "-m", "lam=interval(0,1)"], "list the values"),
        (["anchor", "show"], "asft anchor inspect"),
        (["anchor", "inspect", "method=sft"], "method=sft: has no anchor"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(cli: Cli, arguments: list[str], part: str) -> None:
    shown = cli(*arguments)
    assert shown.returncode == 2, shown.stderr
    assert part in shown.stderr
    assert "Traceback" not in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1


def test_a_cell_that_cannot_run_says_why_in_one_line(cli: Cli) -> None:
    shown = cli("run", "attack.n=99999")
    assert shown.returncode == 1
    assert "attack.n=99999" in shown.stderr
    assert "dataset has 2600" in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1


def test_shell_completion_completes_groups_and_choices() -> None:
    for line, expected in (("asft run met", "method="), ("asft run method=saf", "method=safe_lora")):
        environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
        shown = subprocess.run(
            [sys.executable, "-m", "asft", "run", "-sc", "query=bash"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in shown.stdout, (line, shown.stdout, shown.stderr)


class TestSweep:
    """A sweep on the random pair: it runs, reports, resumes, and survives a failing cell."""

    AXES = ("method=aligned,sft,asft,safe_lora", "attack.p=0,0.5")

    def options(self, pair_overrides: list[str]) -> list[str]:
        return ["experiment=table2", *pair_overrides, "model.recipe.safe_lora_modules=2", *self.AXES]

    def test_from_sweep_to_report(self, cli: Cli, pair_overrides: list[str], tmp_path: Path) -> None:
        options = self.options(pair_overrides)
        first = cli("run", "-m", *options, "tracker=wandb")
        assert first.returncode == 0, first.stderr
        assert "7 cells, 0 finished already" in first.stderr
        assert len(re.findall(r"HS +[\d.]+", first.stderr)) == 7, first.stderr
        trained = list((tmp_path / "outputs" / "stages" / "train").glob("*/history.jsonl"))
        assert len(trained) == 4, "sft and asft at two ratios; Safe LoRA trains nothing"
        runs = list((tmp_path / "outputs" / "wandb").glob("wandb/offline-run-*"))
        keys = {path.name.rpartition("-")[2] for path in runs}
        assert keys == {path.name for path in (tmp_path / "outputs" / "cells").glob("*") if path.is_dir()}

        second = cli("run", "-m", *options)
        assert second.returncode == 0
        assert "7 cells, 7 finished already" in second.stderr

        shown = cli("report", *options)
        assert shown.returncode == 0, shown.stderr
        page = Path(shown.stdout.strip().rpartition("Page: ")[2])
        for name in ("index.html", "table.md", "table.csv", "table.tex"):
            assert (page.parent / name).stat().st_size > 200
        assert "Safe LoRA" in shown.stdout

        status = cli("status", *options)
        assert status.returncode == 0
        assert "7 of 7 cells done" in status.stdout

    def test_a_failing_cell_stops_no_other(self, cli: Cli, pair_overrides: list[str], tmp_path: Path) -> None:
        options = ["experiment=table2", *pair_overrides, "method=sft,safe_lora", "attack.p=0.5"]
        shown = cli("run", "-m", *options, "model.recipe.safe_lora_modules=99")
        assert shown.returncode == 1
        assert "1 of 2 cells failed" in shown.stderr
        assert shown.stderr.count("99") >= 1
        assert "Traceback" not in shown.stderr
        failures = list((tmp_path / "outputs" / "failures").glob("*.json"))
        assert len(failures) == 1
        assert json.loads(failures[0].read_text())["config"]["method"]["name"] == "safe_lora"
        report = cli("report", *options, "model.recipe.safe_lora_modules=99")
        assert report.returncode == 0
        assert "failed" in report.stdout

    def test_joblib_launcher_gives_the_same_cells(self, cli: Cli, pair_overrides: list[str]) -> None:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        options = ["experiment=table2", *pair_overrides, "method=sft,asft", "attack.p=0.5"]
        shown = cli("run", "-m", *options, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        assert shown.returncode == 0, shown.stderr
        again = cli("run", "-m", *options)
        assert "2 cells, 2 finished already" in again.stderr
