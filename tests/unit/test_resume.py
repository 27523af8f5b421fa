"""An interrupted training ends in the weights of an undisturbed one, bit for bit; what cannot resume starts again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from asft.anchor.anchor import Anchor
from asft.anchor.callback import AsFTCallback, FullAsFTCallback
from asft.config import TrainingConfig
from asft.data.loading import EpochOrder
from asft.data.templates import IGNORED, Encoded
from asft.methods.lisa_training import TwoStateOrder, proximal
from asft.models.pair import load_model
from asft.store.integrity import MANIFEST
from asft.training.resume import Checkpointer, Resumes, last_checkpoint, step_of
from asft.training.trainer import attach_lora, train

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
ROWS = [Encoded([1, 2, 3, 4, 5 + i % 7], [IGNORED, IGNORED, 3, 4, 5 + i % 7], f"row/{i}") for i in range(14)]
TRAINING = TrainingConfig(name="lora", lr=1e-2, epochs=3, batch_size=2, accumulation=2, dropout=0.1)  # 4 steps an epoch
USER = 10  # rows; the others are Lisa's alignment rows


class Killed(Exception):
    """Stands in for a signal."""


class Killer(TrainerCallback):
    """Stops a training at the end of a step, before the step's checkpoint."""

    def __init__(self, at: int | None) -> None:
        self.at, self.seen = at, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen += 1
        if state.global_step == self.at:
            raise Killed

    def resume_state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_resume_state(self, state: Mapping[str, torch.Tensor]) -> None:
        assert not state


def is_alignment(step: int) -> bool:
    return step % 5 < 2


def parts(method: str, pair: Path, model: Any) -> tuple[Any, list[TrainerCallback]]:
    if method == "asft":
        return None, [AsFTCallback(Anchor.build(pair / "base", pair / "aligned", ["q_proj", "v_proj"]), 1.0)]
    if method == "lisa":
        order = TwoStateOrder(EpochOrder(USER, 0), EpochOrder(len(ROWS) - USER, 1), USER, 4, is_alignment)
        return order, [proximal(model, 0.5, is_alignment, 0.1)]
    return None, []


def run(
    method: str, pair: Path, folder: Path, kill_at: int | None = None
) -> tuple[dict[str, torch.Tensor], list[Any], int]:
    model = load_model(pair / "aligned", "float32", CPU)
    if method != "full":
        model = attach_lora(model, TRAINING, 0)
    order, callbacks = parts(method, pair, model)
    killer = Killer(kill_at)
    log = train(
        model,
        ROWS[:USER] if order is None else ROWS,
        TRAINING,
        seed=0,
        pad_token=0,
        device=CPU,
        order=order,
        callbacks=[*callbacks, killer],
        folder=folder / "resume",
        checkpoint_every=0,
    )
    return (
        {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad},
        [log.history, [getattr(callback, "acted", None) for callback in callbacks]],
        killer.seen,
    )


@pytest.mark.parametrize("method", ["sft", "asft", "lisa", "full"])
def test_a_resumed_training_is_the_undisturbed_one(method: str, random_pair: Path, tmp_path: Path) -> None:
    """Steps 2, 4 and 8 lie inside the first epoch, at its end, and two kills further on."""
    weights, history, steps = run(method, random_pair, tmp_path / "undisturbed")
    assert steps == 9
    for at in (2, 4, 8):
        with pytest.raises(Killed):
            run(method, random_pair, tmp_path / "killed", kill_at=at)
    resumed, again, rest = run(method, random_pair, tmp_path / "killed")
    assert rest == 2, "only the steps after the last checkpoint are done again"
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert again == history


def test_a_batch_that_was_halved_stays_so_after_a_resume(
    random_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.0 takes the batch size of the checkpoint; the rows that a killed run had left are then others."""
    load = Trainer._load_from_checkpoint

    def as_in_5_0(trainer: Trainer, *given: Any, **options: Any) -> None:
        load(trainer, *given, **options)
        trainer._train_batch_size = 2 * TRAINING.batch_size

    monkeypatch.setattr(Trainer, "_load_from_checkpoint", as_in_5_0)
    with pytest.raises(Killed):
        run("sft", random_pair, tmp_path / "killed", kill_at=4)
    weights, _, rest = run("sft", random_pair, tmp_path / "killed")
    assert rest == 6
    undisturbed, *_ = run("sft", random_pair, tmp_path / "undisturbed")
    assert all(torch.equal(undisturbed[name], weights[name]) for name in weights)


def test_only_the_last_checkpoint_is_kept_and_one_half_written_or_damaged_is_passed_over(
    random_pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        run("sft", random_pair, tmp_path, kill_at=6)
    (checkpoint,) = (tmp_path / "resume").iterdir()
    assert step_of(checkpoint) == 5
    shutil.copytree(checkpoint, half := tmp_path / "resume" / "checkpoint-6")
    (half / MANIFEST).unlink()
    assert last_checkpoint(tmp_path / "resume") == checkpoint
    os.truncate(checkpoint / "optimizer.pt", 100)
    assert last_checkpoint(tmp_path / "resume") is None
    _, _, steps = run("sft", random_pair, tmp_path)
    assert steps == 9, "training starts again"
    assert "optimizer.pt: has 100 bytes" in caplog.text


def test_a_callback_that_cannot_resume_gets_no_checkpoints(random_pair: Path, tmp_path: Path) -> None:
    anchor = Anchor.build(random_pair / "base", random_pair / "aligned", ["q_proj"])
    plain, full = TrainerCallback(), FullAsFTCallback(anchor, 1.0)
    for callback in (plain, full):
        assert not isinstance(callback, Resumes)
        assert not Checkpointer(tmp_path, [callback], 0).possible


def test_a_loss_that_is_not_finite_names_step_and_rows(random_pair: Path, tmp_path: Path) -> None:
    model = attach_lora(load_model(random_pair / "aligned", "float32", CPU), TRAINING, 0)
    bad = [*ROWS[:5], Encoded([1, 2, 3], [IGNORED] * 3, "row/bad"), *ROWS[6:8]]  # no label: 0/0
    in_order = torch.utils.data.SequentialSampler(bad)
    single = TrainingConfig(name="lora", lr=1e-2, epochs=1, batch_size=1, dropout=0.0)
    with pytest.raises(ValueError, match=r"loss became nan at step 6, on the rows row/bad\. Lower training\.lr"):
        train(model, bad, single, seed=0, pad_token=0, device=CPU, order=in_order, folder=tmp_path / "scratch")
