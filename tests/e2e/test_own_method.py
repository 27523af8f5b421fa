"""A method in a folder of its own, as the how-to has it, from the command line to its scores."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, Cli

pytestmark = pytest.mark.slow


def test_the_how_to_s_method_runs(
    cli: Cli, pair_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPOSITORY / "docs" / "how-to" / "method.md").read_text()
    for kind, folder in (("python", ""), ("yaml", "conf")):
        body = re.search(rf"```{kind}\n# (?:FOLDER/)?(\S+)\n(.*?)```", page, re.S)
        assert body is not None
        file = tmp_path / "own" / folder / body[1]
        file.parent.mkdir(parents=True)
        file.write_text(body[2])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "own"), prepend=":")
    command = ["run", f"hydra.searchpath=[file://{tmp_path}/own/conf]", "method=shallow", *pair_overrides]
    run = cli(*command)
    assert run.returncode == 0, run.stderr
    (manifest,) = (tmp_path / "outputs" / "cells").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["result"]["metrics"]["HS"]["total"] == 10
    refused = cli(*command, "method.weight=3", "method.first=0")
    assert refused.stderr.strip().startswith("asft run: method.first=0: input should be greater than or equal to 1")
