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


@pytest.fixture(scope="module")
def forked(random_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The outputs of :mod:`forked_teams` and what it found; 25 rows leave a last batch of one for two processes."""
    outputs = tmp_path_factory.mktemp("teams")
    overrides = [
        "model=pair",
        f"model.base={random_pair / 'base'}",
        f"model.aligned={random_pair / 'aligned'}",
        "model.dtype=float32",
        "training.lr=1e-3",
        "dataset.n_test=12",
        "dataset.max_new_tokens=4",
        "evaluation.n_harmful=10",
        "evaluation.harmful_max_new_tokens=4",
        *SETTINGS,
    ]
    found = run_script(SCRIPT, str(outputs), json.dumps(overrides))
    return outputs, found


def entries(outputs: Path, kind: str) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted((outputs / kind).glob("[0-9a-f]*/manifest.json"))}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["result"]
    return found


def test_two_processes_train_the_weights_of_one(forked: tuple[Path, dict[str, Any]]) -> None:
    """AsFT, Lisa and full-parameter AsFT; the curve with its penalty and clipped gradients too."""
    outputs, _ = forked
    one, two = (entries(outputs / name, "stages/train") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert len(one) == 3
    for key, folder in one.items():
        assert "processes" not in result(folder)
        assert result(two[key])["processes"] == 2
        expected, found = weights(folder), weights(two[key])
        for name, tensor in expected.items():
            assert torch.allclose(tensor, found[name], rtol=0, atol=2e-6), name
        for logged, other in zip(*(read_jsonl(path / HISTORY_FILE) for path in (folder, two[key])), strict=True):
            assert other == pytest.approx(logged, rel=1e-4, abs=1e-6)


def test_every_process_holds_the_same_weights_bit_for_bit(forked: tuple[Path, dict[str, Any]]) -> None:
    first, second = forked[1]["digests"]
    assert first == second
    assert len(set(first)) == 3


def test_two_processes_give_the_answers_and_scores_of_one(forked: tuple[Path, dict[str, Any]]) -> None:
    outputs, _ = forked
    one, two = (entries(outputs / name, "stages/generate") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, folder in one.items():
        assert result(two[key])["processes"] == 2
        assert (folder / ANSWERS_FILE).read_text() == (two[key] / ANSWERS_FILE).read_text()
    one, two = (entries(outputs / name, "cells") for name in ("one", "two"))
    assert [result(one[key])["metrics"] for key in one] == [result(two[key])["metrics"] for key in one]


def test_a_loss_that_is_not_finite_in_one_process_fails_the_cell_and_the_next_one_runs(
    forked: tuple[Path, dict[str, Any]],
) -> None:
    found = forked[1]["faults"]["nan"]
    assert found["codes"] == [1, 0]
    assert len(found["failures"]) == 1
    assert "loss became nan at step 4, on the rows " in found["failures"][0]["message"]
    assert found["cells"] == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("memory", "process 1 could not go on, and all were ended: out of memory: several processes do not halve"),
        ("error", "process 0 could not go on, and all were ended: RuntimeError: injected"),
        ("kill", "connection to another process broke"),
    ],
)
def test_a_fault_in_one_process_ends_all_and_is_recorded(
    fault: str, message: str, forked: tuple[Path, dict[str, Any]]
) -> None:
    found = forked[1]["faults"][fault]
    assert all(code != 0 for code in found["codes"])
    assert len(found["failures"]) == 1
    assert message in found["failures"][0]["message"]
    assert ("injected" in found["failures"][0]["traceback"]) == (fault != "kill")
    assert found["damaged"] == found["cells"] == 0


def test_after_a_killed_process_the_same_command_goes_on_to_the_same_weights(
    forked: tuple[Path, dict[str, Any]],
) -> None:
    outputs, found = forked
    assert found["faults"]["kill"]["again"] == [0, 0]
    assert "training goes on from step 3" in found["faults"]["kill"]["told"]
    ((key, folder),) = entries(outputs / "kill", "stages/train").items()
    expected, resumed = weights(outputs / "one" / "stages/train" / key), weights(folder)
    assert all(torch.allclose(expected[name], resumed[name], rtol=0, atol=2e-6) for name in expected)
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
