"""Two processes give one process' results; a fault in either ends both, and nothing written is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_script
from helpers import read_jsonl
from safetensors.torch import load_file

from asft.store.schemas import ANSWERS_FILE, HISTORY_FILE

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("forked_teams.py")

UNEVEN = ["attack.n=25", "training.batch_size=8", "training.accumulation=2", "evaluation.batch_size=4"]
SETTINGS = [*UNEVEN, "training.epochs=2", "training.dropout=0", "training.max_grad_norm=1", "checkpoint_every=0"]
Forked = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def forked(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Forked:
    """The outputs of :mod:`forked_teams` and what it found; 25 rows leave a last batch of one for two processes."""
    outputs = tmp_path_factory.mktemp("teams")
    return outputs, run_script(SCRIPT, str(outputs), json.dumps([*small, *SETTINGS]))


def both(outputs: Path, kind: str) -> list[tuple[Path, Path]]:
    """Three entries as one process made them, and as two did: two after a kill, the third after another's failure."""
    one, two = (entries(outputs / name, kind) for name in ("one", "kill"))
    two |= entries(outputs / "nan", kind)
    assert one.keys() == two.keys()
    return [(folder, two[key]) for key, folder in one.items()]


def entries(outputs: Path, kind: str) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted((outputs / kind).glob("[0-9a-f]*/manifest.json"))}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["result"]
    return found


def test_two_processes_train_the_weights_of_one(forked: Forked) -> None:
    """AsFT, Lisa and full-parameter AsFT; the curve with its penalty and clipped gradients too."""
    trained = both(forked[0], "stages/train")
    assert len(trained) == 3
    for one, two in trained:
        assert "processes" not in result(one)
        assert result(two)["processes"] == 2
        expected, found = weights(one), weights(two)
        for name, tensor in expected.items():
            assert torch.allclose(tensor, found[name], rtol=0, atol=2e-6), name
        for logged, other in zip(*(read_jsonl(path / HISTORY_FILE) for path in (one, two)), strict=True):
            assert other == pytest.approx(logged, rel=1e-4, abs=1e-6)


def test_every_process_holds_the_same_weights_bit_for_bit(forked: Forked) -> None:
    first, second = (
        [digest for name in ("kill", "nan") for digest in (forked[0] / name / f"weights{rank}.txt").read_text().split()]
        for rank in (0, 1)
    )
    assert first == second
    assert len(set(first)) == 3


def test_two_processes_give_the_answers_and_scores_of_one(forked: Forked) -> None:
    for one, two in both(forked[0], "stages/generate"):
        assert result(two)["processes"] == 2
        assert (one / ANSWERS_FILE).read_text() == (two / ANSWERS_FILE).read_text()
    assert all(result(one)["metrics"] == result(two)["metrics"] for one, two in both(forked[0], "cells"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "loss became nan at step 5, on the rows "),  # process 1 has no row in the fourth, where it is struck
        ("memory", "process 1 could not go on, and all were ended: out of memory: several processes do not halve"),
        ("error", "process 0 could not go on, and all were ended: RuntimeError: injected"),
        ("kill", "connection to another process broke"),
    ],
)
def test_a_fault_in_one_process_is_recorded_and_ends_all_but_where_the_loss_fails(
    fault: str, message: str, forked: Forked
) -> None:
    found = forked[1][fault]
    (failure,) = found["failures"]
    assert message in failure["message"]
    assert ("injected" in failure["traceback"]) == (fault in {"memory", "error"})
    assert found["damaged"] == 0
    if fault == "nan":
        assert (found["codes"], found["cells"]) == ([1, 0], 1), "the next cell ran"
    else:
        assert all(code != 0 for code in found["codes"])
        assert found["cells"] == 0


def test_after_a_killed_process_the_same_command_goes_on(forked: Forked) -> None:
    outputs, found = forked
    assert found["kill"]["again"] == [0, 0]
    assert "training goes on from step 3" in found["kill"]["told"]
    assert not list((outputs / "kill" / "stages/train").glob(".*.tmp-*"))


@pytest.mark.nightly
def test_torchrun_starts_one_program_and_ends_it(pair_overrides: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "asft"]
    done = subprocess.run(
        [*command, "run", "method=aligned", *pair_overrides],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("HS ") == 1, "one process tells"
    answers = entries(tmp_path / "outputs", "stages/generate").values()
    assert {result(folder)["processes"] for folder in answers} == {2}
