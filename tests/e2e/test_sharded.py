"""AsFT under FSDP2 trains the weights of one process, and each process holds the forms of its share of the modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from forked import run_script

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("forked_shards.py")
# Mixed precision rounds each process' activations and gradients to bf16 in another place than autocast does.
TOLERANCE = {"mixed": 2e-2, "bf16": 1e-6}
NIGHTLY = pytest.mark.nightly


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, ["q_v", "all", "bf16", "full"]), id="2"),
        pytest.param((4, ["q_v", "all", "bf16", "mixed", "full"]), id="4", marks=NIGHTLY),
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
        assert max(found["memory"]) <= 1.2 * share, case
