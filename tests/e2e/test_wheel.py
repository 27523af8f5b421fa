"""The built wheel holds every file that is needed, and runs from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import REPOSITORY

pytestmark = pytest.mark.slow
USED = "import asft.pipeline.run, asft.report; from asft import Anchor, AsFTCallback, safe_lora, project_adapter"


def run(*command: str | Path, cwd: Path, code: int = 0, **environment: str) -> str:
    words = [str(part) for part in command]
    shown = subprocess.run(words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert shown.returncode == code, shown.stdout + shown.stderr
    return shown.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, REPOSITORY, cwd=dist)
    (built,) = dist.glob("*.whl")
    return built


def test_the_wheel_holds_all_that_git_holds_and_runs(wheel: Path, tmp_path: Path) -> None:
    tracked = run("git", "ls-files", "asft", "conf", cwd=REPOSITORY).split()
    wanted = {f"asft/{name}" if name.startswith("conf/") else name for name in tracked}
    archive = zipfile.ZipFile(wheel)
    assert wanted <= set(archive.namelist())
    archive.extractall(tmp_path / "site")
    found = run(
        *(
            sys.executable,
            "-c",
            f"{USED}; print(asft.__file__); from asft.cli import main; main(['run', '--cfg', 'job'])",
        ),
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "site"),
    )
    assert found.startswith(str(tmp_path / "site"))
    assert "lam: 1.0" in found


@pytest.mark.nightly
def test_an_installed_wheel_needs_no_checkout(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python, asft = (tmp_path / "venv" / "bin" / name for name in ("python", "asft"))
    run(python, "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt", wheel, cwd=tmp_path)
    assert "lam: 1.0" in run(asft, "run", "--cfg", "job", cwd=tmp_path)
    assert "0 of " in run(asft, "status", "experiment=table2", cwd=tmp_path, code=1)
    run(python, "-c", USED, cwd=tmp_path)
