"""What a configuration may import and call: this package, installed plug-ins, and folders that the user names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from refusals import refuses

from asft.cells import build
from asft.cells.cell import PLUGINS
from asft.cells.compose import check_ours, enumerate_cells, launch


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be imported and leaves a file when it is; returns that file."""
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Method: name = 'x'")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "ran"


@pytest.mark.parametrize(
    "target",
    ["stranger.Method", "package.inner.Method", "antigravity.fly", "os.system", ".x", "x", "..x.y", ""],
)
def test_a_stranger_is_not_imported(target: str, stranger: Path) -> None:
    for key, kind in PLUGINS.items():
        with refuses("hydra.searchpath=[file://FOLDER]; nothing else is imported"):
            build.build_plugin(key, {"_target_": target}, kind)
    assert not stranger.exists()
    assert "antigravity" not in sys.modules


def test_a_part_inside_a_plug_in_is_no_way_around(stranger: Path) -> None:
    with refuses("judge.judges.1._target_=stranger.Method"):
        enumerate_cells(["judge=ensemble", "+judge.judges.1={_target_:stranger.Method}"], sweep=False)
    assert not stranger.exists()


def test_a_folder_that_the_user_names_is_asked(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_folders", set())
    with refuses("must be a class derived from asft.methods.base.Method"):
        enumerate_cells(
            [f"hydra.searchpath=[file://{stranger.parent}]", "method._target_=stranger.Method"], sweep=False
        )
    assert stranger.exists(), "its module may run"
    monkeypatch.chdir(stranger.parent)
    with refuses("nothing else is imported"):  # what is compiled into Python lies in no folder
        build.build_plugin("method", {"_target_": "_ast.AST"}, PLUGINS["method"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os\nclass (", "{at}.py, line 2: SyntaxError"),
        ("\nimport absent_library", "{at}.py, line 2: ModuleNotFoundError: No module named 'absent_library'"),
        ("class X(Judge): pass", "{at}.py, line 1: NameError: name 'Judge' is not defined"),
        ("import json\njson.loads('a\\nb')", "{at}.py, line 2: JSONDecodeError"),
        ("from {at}_b import y", "{at}_b.py, line 3: ZeroDivisionError"),
        ("", "has no attribute 'X'"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_told_by_file_and_line(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_folders", {tmp_path})
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text.replace("{at}", name))
    (tmp_path / f"{name}_b.py").write_text("\n\n1 / 0\n")
    with refuses(told.replace("{at}", str(tmp_path / name))):
        build.build_plugin("judge", {"_target_": f"{name}.X"}, PLUGINS["judge"])


@pytest.mark.parametrize(
    "handler",
    [
        {"()": "stranger.Method"},
        {"class": "stranger.Method"},
        {"class": "logging.StreamHandler", "stream": "ext://stranger.Method"},
        {"class": "logging.StreamHandler", "filters": [{"()": "ext://stranger.Method"}]},
    ],
)
def test_logging_calls_no_stranger(handler: dict[str, Any], stranger: Path) -> None:
    for part, other in (("job_logging", "hydra_logging"), ("hydra_logging", "job_logging")):
        for kind in ("handlers", "formatters"):
            with refuses("only classes of logging and of asft"):
                check_ours(OmegaConf.create({part: {kind: {"x": handler}}, other: {"version": 1}}))
    assert not stranger.exists()


def test_hydra_calls_no_stranger(stranger: Path, tmp_path: Path) -> None:
    sweep = enumerate_cells(["+hydra.callbacks.x={_target_:stranger.Method}", f"outputs={tmp_path}"], sweep=True)
    with refuses("hydra.callbacks"):
        launch(sweep, ["x"], lambda _: None)
    assert not stranger.exists()
