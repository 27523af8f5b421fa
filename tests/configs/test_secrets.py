"""A variable of the environment comes into a configuration only where it is named as no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from asft.cells.compose import enumerate_cells
from asft.config import ConfigError

SECRET = "planted-5ecret"
WANDB = ["tracker=wandb"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["tracker.project=${oc.env:PLANTED}"],
        ["tracker.entity=env", "tracker.project='${oc.${tracker.entity}:PLANTED}'"],
        ["tracker.project='x-${oc.env:PLANTED,none}-y'"],
        ["tracker.entity=PLANTED", "tracker.project='${oc.env:${tracker.entity}}'"],
        ["outputs='${oc.decode:${oc.env:PLANTED}}'"],
        ["+judge.request={user:'${oc.env:PLANTED}'}", "judge=llm"],
        ["seed='${oc.env:PLANTED}'", "-m"],
    ],
)
def test_an_environments_variable_is_refused_unseen(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", SECRET)
    words = [*WANDB, *(text for text in overrides if text != "-m")]
    with pytest.raises(ConfigError, match=r"oc\.env:PLANTED.*public_env:PLANTED") as caught:
        enumerate_cells(words, sweep="-m" in overrides)
    assert SECRET not in str(caught.value)
    assert OmegaConf.create({"x": "${oc.env:PLANTED}"}).x == SECRET, "elsewhere in the process it is as it was"


def test_one_that_is_named_as_no_secret_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    job = enumerate_cells(["outputs=${public_env:SCRATCH}/x", "seed=${public_env:UNSET,7}"], sweep=False).cells[0]
    assert (job.options.outputs, job.cell.seed) == (tmp_path / "x", 7)
    monkeypatch.setenv("ASFT_OUTPUTS", "elsewhere")
    assert enumerate_cells([], sweep=False).cells[0].options.outputs == Path("elsewhere")
