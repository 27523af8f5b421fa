"""The built wheel, installed with its dependencies into an empty environment, runs from another folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    shown = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    return shown.stdout


def test_an_installed_wheel_needs_no_checkout(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", REPOSITORY, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assets = ("asft/dashboard/assets/index.html", "asft/dashboard/assets/vendor/tabulator.LICENSE")
    for part in ("asft/conf/config.yaml", "asft/conf/experiment/table2.yaml", "asft/report/paper_tables.yaml", *assets):
        assert part in names
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt", wheel, cwd=tmp_path)
    asft = tmp_path / "venv" / "bin" / "asft"
    assert "lam: 1.0" in run(asft, "run", "--cfg", "job", cwd=tmp_path)
    assert (
        "0 of "
        in subprocess.run([asft, "status", "experiment=table2"], cwd=tmp_path, capture_output=True, text=True).stdout
    )
    imported = (
        "from asft import Anchor, AsFTCallback, safe_lora, project_adapter; import asft.pipeline.run, asft.report"
    )
    run(python, "-c", imported, cwd=tmp_path)
