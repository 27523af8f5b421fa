"""A batch that does not fit is halved, in the middle of a training too, and the manifest says so."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import MakeJob
from safetensors.torch import load_file
from transformers import TrainerCallback

import asft.backends.generate
import asft.pipeline.run
from asft.pipeline.run import run_cell
from asft.store.entries import Entry, Store

pytestmark = pytest.mark.slow


class NoRoom(TrainerCallback):
    """Stands in for a GPU that is full at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.at and args.per_device_train_batch_size > 4:
            raise torch.OutOfMemoryError("injected")

    def resume_state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_resume_state(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to take back."""


def adapter(entry: Entry, outputs: Path) -> tuple[Entry, dict[str, torch.Tensor]]:
    found = Store(outputs).read("stages/train", entry.result["stages"]["train"]["key"], whole=True)
    assert found is not None
    return found, load_file(found.path / "adapter_model.safetensors")


@pytest.mark.parametrize("at", [0, 4])
def test_training_goes_on_with_half_the_batch_and_the_same_step(
    at: int, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At step 4, of six, training goes on from the checkpoint of the larger batch."""
    job = make_job("method=asft", "training.dropout=0", "training.epochs=2", "checkpoint_every=0")
    _, undisturbed = adapter(run_cell(job), job.options.outputs)
    real = asft.pipeline.run.train
    steps = []

    def short_of_memory(*arguments: Any, callbacks: list[TrainerCallback], **options: Any) -> Any:
        history = real(*arguments, callbacks=[*callbacks, NoRoom(at)], **options)
        steps.append(history.steps)
        return history

    monkeypatch.setattr("asft.pipeline.run.train", short_of_memory)
    squeezed = replace(job, options=replace(job.options, outputs=tmp_path / "squeezed"))
    with caplog.at_level(logging.INFO, "asft"):
        entry, weights = adapter(run_cell(squeezed), squeezed.options.outputs)
    assert (entry.result["batch_size"], entry.result["accumulation"]) == (4, 2)
    assert "out of memory with 8 rows at once: going on with 4" in caplog.text
    assert ("training goes on from step" in caplog.text) == (at > 0)
    assert steps == [6]
    for name, tensor in undisturbed.items():
        assert torch.allclose(tensor, weights[name], atol=1e-5), name


def test_a_generation_batch_that_does_not_fit_is_kept_in_the_manifest(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("method=aligned")
    whole = run_cell(job)
    real = asft.backends.generate.pad_left

    def short_of_memory(rows: Any, pad: int) -> Any:
        if len(rows) > 5:
            raise torch.OutOfMemoryError("injected")
        return real(rows, pad)

    monkeypatch.setattr("asft.backends.generate.pad_left", short_of_memory)
    squeezed = run_cell(replace(job, options=replace(job.options, outputs=tmp_path / "squeezed")))
    assert squeezed.result["metrics"] == whole.result["metrics"]
    for stage in ("answers HS", "answers FA"):
        assert squeezed.result["stages"][stage]["result"]["batch_size"] <= 5
        assert "batch_size" not in whole.result["stages"][stage]["result"]
