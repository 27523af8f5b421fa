"""AsFT under FSDP2 trains the weights of one process, and each process holds the forms of its share of the modules."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from forked import run_script
from helpers import REPOSITORY

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("forked_shards.py")
# Mixed precision rounds each process' activations and gradients to bf16 in another place than autocast does.
TOLERANCE = {"mixed": 2e-2, "bf16": 1e-6}
NIGHTLY = pytest.mark.nightly


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, ["q_v", "all", "bf16", "full", "loop"]), id="2"),
        pytest.param((4, ["q_v", "all", "bf16", "mixed", "full", "loop"]), id="4", marks=NIGHTLY),
    ],
)
def sharded(
    request: pytest.FixtureRequest, random_pair: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    processes, cases = request.param
    return run_script(SCRIPT, str(random_pair), str(tmp_path_factory.mktemp("shards")), str(processes), *cases)


def test_sharded_processes_train_the_weights_of_one(sharded: dict[str, dict[str, Any]]) -> None:
    """q and v, all linears with an odd number of modules, accumulation, clipping, bf16, full parameters."""
    for case, found in sharded.items():
        assert found["distance"] <= TOLERANCE.get(case, 1e-6), case


def test_the_curve_tells_the_penalty_of_all_modules(sharded: dict[str, dict[str, Any]]) -> None:
    for case, (one, *several) in ((case, found["told"]) for case, found in sharded.items()):
        assert any(entry["asft/penalty"] > 0 for entry in one)
        for told in several:
            for entry, expected in zip(told, one, strict=True):
                assert entry == pytest.approx(expected, rel=1e-2 if case == "mixed" else 1e-5), case


def test_a_process_holds_its_share_of_the_anchor(sharded: dict[str, dict[str, Any]]) -> None:
    for case, found in sharded.items():
        share = found["anchor"] / len(found["memory"])
        assert sum(found["memory"]) == found["anchor"], case
        assert max(found["memory"]) <= max(1.2 * share, found["largest"]), case


def launch_flags() -> list[str]:
    """Those of the command in docs/scaling.md, without the script's words."""
    lines = (REPOSITORY / "docs" / "scaling.md").read_text().splitlines()
    words = shlex.split(next(line for line in lines if line.startswith("accelerate launch --use_fsdp")))
    return words[2 : next(number for number, word in enumerate(words) if word.endswith(".py"))]


@NIGHTLY
@pytest.mark.parametrize("example", ["trainer.py", "sft_trainer.py"])
def test_an_example_goes_on_after_a_kill_as_the_docs_launch_it(example: str, random_pair: Path, tmp_path: Path) -> None:
    if example == "sft_trainer.py":
        pytest.importorskip("trl")
    rows = [json.dumps({"text": f"answer the question number {number} please"}) for number in range(64)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    arguments = (str(random_pair / "base"), str(random_pair / "aligned"), str(tmp_path / "rows.jsonl"))
    place = str(REPOSITORY / "docs" / "examples" / example)
    found = run_script(
        SCRIPT.with_name("forked_launch.py"), place, str(tmp_path), json.dumps(launch_flags()), *arguments
    )
    assert found["codes"] == [[0, 0], [9, 9], [0, 0]]
    assert found["distance"] == 0
    assert found["trained"] > 0
    assert "asft/norm_orthogonal" in found["told"]


def test_slurm_starts_what_the_docs_launch_on_each_node(tmp_path: Path) -> None:
    commands = {
        "scontrol": "printf 'node%s\\n' $(seq 7 40000)",
        "srun": 'export SLURM_NODEID=1; exec "$@"',
        "accelerate": 'shift; printf "%s\\n" "$@"',
    }
    for name, line in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    env = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "node[7-8]"}
    done = subprocess.run(
        ["bash", str(REPOSITORY / "scripts" / "slurm_fsdp.sh"), "train.py", "BASE"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **env},
        capture_output=True,
        text=True,
        check=True,
    )
    started, alone = (
        launch_command_parser().parse_args(words) for words in (done.stdout.split(), [*launch_flags(), "train.py"])
    )
    assert (started.machine_rank, started.num_machines, started.num_processes) == (1, 2, 16)
    assert (started.main_process_ip, started.training_script, started.training_script_args) == (
        "node7",
        "train.py",
        ["BASE"],
    )
    same = [name for name in vars(alone) if name.startswith(("fsdp", "use_fsdp"))]
    assert [getattr(started, name) for name in same] == [getattr(alone, name) for name in same]
