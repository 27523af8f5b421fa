"""Through a real Trainer step the gradient is that of the summed loss L + R (float64)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anchor_pairs import TARGETS, VOCABULARY, naive_penalty, save_pair, surrogate, with_lora
from peft import PeftModel
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from asft import Anchor, AsFTCallback
from asft.anchor.binding import lora_factors
from asft.anchor.difference import CheckpointPair

LAM = 0.7


def rows(count: int = 8, length: int = 10) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(0, VOCABULARY, (count, length), generator=generator)
    return [{"input_ids": row, "labels": row.clone()} for row in ids]


class Gradients(TrainerCallback):
    """Keeps the gradients the optimiser is about to use; placed after the callback under test."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})


class Reporter(TrainerCallback):
    """Keeps the logs as a tracker gets them."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.seen.append(dict(logs))


def train(
    model: PeftModel, callbacks: list[TrainerCallback], output: Path, **settings: object
) -> tuple[Trainer, Gradients]:
    options: dict[str, object] = {
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "learning_rate": 0.0,
        "max_grad_norm": 0.0,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    arguments = TrainingArguments(output_dir=str(output), **{**options, **settings})
    callbacks = [*callbacks, gradients := Gradients()]
    trainer = Trainer(model=model, args=arguments, train_dataset=rows(), callbacks=callbacks)
    trainer.train()
    return trainer, gradients


def penalty_gradients(pair: Path, model: PeftModel, kind: str) -> dict[str, Tensor]:
    """Autograd of the naive Σ ‖(I − Ĉ)BA‖², by parameter name."""
    source = CheckpointPair(pair / "base", pair / "aligned", TARGETS[kind])
    total = sum(naive_penalty(surrogate(source.difference(f.name)), f.b @ f.a) for f in lora_factors(model))
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pair")
    save_pair(directory, "llama", torch.float64)
    return directory


@pytest.fixture
def adapted(pair: Path) -> Callable[[], PeftModel]:
    from transformers import AutoModelForCausalLM

    def build(**settings: object) -> PeftModel:
        model = AutoModelForCausalLM.from_pretrained(pair / "aligned", dtype=torch.float64)
        torch.manual_seed(5)
        return with_lora(model, TARGETS["llama"], **settings)

    return build


def build_anchor(pair: Path) -> Anchor:
    return Anchor.build(pair / "base", pair / "aligned", TARGETS["llama"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"max_grad_norm": 1e-3},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 1e-3},
        {"gradient_checkpointing": True},
    ],
    ids=["plain", "accumulation", "clipping", "accumulation+clipping", "checkpointing"],
)
def test_step_has_the_gradient_of_task_plus_penalty(pair, adapted, tmp_path, settings) -> None:
    _, alone = train(adapted(), [], tmp_path, **settings)
    model = adapted()
    expected = penalty_gradients(pair, model, "llama")
    _, both = train(model, [AsFTCallback(build_anchor(pair), LAM)], tmp_path, **settings)
    for name, task in alone.steps[0].items():
        total = task + LAM * expected[name]
        assert float((both.steps[0][name] - total).norm() / total.norm()) < 1e-10, name


def test_task_gradient_is_that_of_the_loss(adapted, tmp_path) -> None:
    """Guards the reference side of the test above: what the Trainer back-propagates is the batch's mean loss."""
    model = adapted()
    batch = rows()
    trainer, alone = train(model, [], tmp_path, per_device_train_batch_size=8)
    inputs = {key: torch.stack([row[key] for row in batch]) for key in batch[0]}
    loss = model(**inputs).loss
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, gradient in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
        assert torch.allclose(alone.steps[0][name], gradient, rtol=1e-9, atol=1e-13)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_micro_accumulation_counts_the_micro_batches(pair, adapted, tmp_path) -> None:
    """The reference adds R to every micro-batch's loss undivided, so k micro-batches make it k times stronger."""
    settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3, "num_train_epochs": 1}
    anchor = build_anchor(pair)
    _, alone = train(adapted(), [], tmp_path, **settings, max_steps=3)
    model = adapted()
    expected = penalty_gradients(pair, model, "llama")
    _, micro = train(model, [AsFTCallback(anchor, LAM, accumulation="micro")], tmp_path, **settings, max_steps=3)
    for step, times in enumerate((3, 3, 2)):  # 8 rows: the epoch's last step has two micro-batches
        for name, task in alone.steps[step].items():
            total = task + LAM * times * expected[name]
            assert torch.allclose(micro.steps[step][name], total, rtol=1e-9, atol=1e-12), (step, name)


@pytest.mark.parametrize(
    ("dtype", "bf16", "tolerance"),
    [(torch.float32, True, 1e-5), (torch.bfloat16, False, 2**-8)],
    ids=["autocast", "bf16 parameters"],
)
def test_bf16(pair, adapted, tmp_path, dtype, bf16, tolerance) -> None:
    _, alone = train(adapted().to(dtype), [], tmp_path, bf16=bf16)
    model = adapted().to(dtype)
    _, both = train(model, [AsFTCallback(build_anchor(pair), LAM)], tmp_path, bf16=bf16)
    expected = penalty_gradients(pair, model.double(), "llama")
    for name, task in alone.steps[0].items():
        assert both.steps[0][name].dtype == dtype
        total = task.double() + LAM * expected[name]
        assert float((both.steps[0][name].double() - total).norm() / total.norm()) < tolerance, name


def test_logs_show_that_the_defence_was_on(pair, adapted, tmp_path) -> None:
    model = adapted()
    callback = AsFTCallback(build_anchor(pair), LAM)
    trainer, _ = train(model, [callback, reporter := Reporter()], tmp_path, max_steps=2)
    source = CheckpointPair(pair / "base", pair / "aligned", TARGETS["llama"])
    updates = [(surrogate(source.difference(f.name)), (f.b @ f.a).detach()) for f in lora_factors(model)]
    along = sum(float((c @ ba).square().sum()) for c, ba in updates) ** 0.5
    naive = sum(float(naive_penalty(c, ba)) for c, ba in updates)
    for log in (trainer.state.log_history[0], reporter.seen[0]):
        assert log["asft/modules"] == 8
        assert log["asft/penalty"] == pytest.approx(LAM * naive)
        assert log["asft/norm_along"] == pytest.approx(along)
        assert log["asft/norm_orthogonal"] == pytest.approx(naive**0.5)
    assert len(trainer.state.log_history) == 3  # two steps and the summary
    assert "asft/penalty" in trainer.state.log_history[-1]
    assert callback.norms().penalty == pytest.approx(naive)


def test_moved_to_the_front_it_reaches_earlier_reporters(pair, adapted, tmp_path) -> None:
    """The recipe of docs/anchor.md for `report_to`, whose callbacks the Trainer registers first."""
    callbacks = [reporter := Reporter(), callback := AsFTCallback(build_anchor(pair), LAM)]
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=1, report_to=[], logging_steps=1)
    trainer = Trainer(model=adapted(), args=arguments, train_dataset=rows(), callbacks=callbacks)
    order = trainer.callback_handler.callbacks
    order.insert(0, order.pop(order.index(callback)))
    trainer.train()
    assert ["asft/penalty" in logs for logs in reporter.seen] == [True, True]


def test_training_with_the_penalty_lowers_it(pair, adapted, tmp_path) -> None:
    anchor = build_anchor(pair)
    final = {}
    for lam in (0.0, 5.0):
        callback = AsFTCallback(anchor, lam)
        train(adapted(), [callback], tmp_path, max_steps=20, learning_rate=5e-3)
        final[lam] = callback.norms().penalty
    assert final[5.0] < 0.7 * final[0.0]
