"""One trainer for every method: ``transformers.Trainer`` with an explicit row order and per-epoch decay."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from asft.anchor.checkpoint import linear_modules
from asft.anchor.names import unmatched
from asft.config import TrainingConfig
from asft.data.loading import Collator, DealtBatches, EncodedRows, EpochOrder, FullBatches
from asft.data.templates import IGNORED, Encoded
from asft.distributed.team import check_launcher, team
from asft.store.heartbeat import tell
from asft.training.resume import Checkpointer, step_of

log = logging.getLogger(__name__)
_LOGGED_POINTS = 100  # at most so many points of a training curve are kept


@dataclass(frozen=True)
class TrainLog:
    """What a fine-tune reports: logged metrics by step, and the last logged loss."""

    history: list[dict[str, float]]
    steps: int

    @property
    def loss(self) -> float:
        """The training loss averaged over the last logging interval."""
        return next(entry["loss"] for entry in reversed(self.history) if "loss" in entry)


def trainable(model: PreTrainedModel, training: TrainingConfig, seed: int) -> PreTrainedModel | PeftModel:
    """The model as ``training`` has it: with a LoRA or as it is, its ``forward`` computed in ``training.autocast``."""
    made = attach_lora(model, training, seed) if training.name == "lora" else model
    if training.autocast:
        if model.device.type == "cpu" and not _computes_bfloat16():
            log.warning("this processor has no instructions for bfloat16, which slows training: training.autocast=null")
        made.forward = torch.autocast(model.device.type, getattr(torch, training.autocast))(made.forward)
    return made


def _computes_bfloat16() -> bool:
    """Whether the processor does, as far as torch tells."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not found or any(has for name, has in found.items() if "bf16" in name)


def attach_lora(model: PreTrainedModel, training: TrainingConfig, seed: int) -> PeftModel:
    """A trainable LoRA on the target modules, B = 0; ``seed`` draws A; ValueError when no module has a target name."""
    linears = linear_modules(model)
    if missing := unmatched(training.target_modules, linears):
        raise ValueError(
            f"training.target_modules: {missing} match no linear module of this model; "
            f"allowed: {', '.join(sorted({name.rpartition('.')[2] for name in linears}))}"
        )
    torch.manual_seed(seed)
    config = LoraConfig(
        r=training.rank,
        lora_alpha=training.alpha,
        lora_dropout=training.dropout,
        target_modules=list(training.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def digests(model: torch.nn.Module) -> dict[str, str]:
    """A digest of every weight's bytes, by name."""
    found = {}
    for name, weight in model.named_parameters():
        plain = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found[name] = hashlib.sha256(plain.numpy().tobytes()).hexdigest()
    return found


def train(
    model: PreTrainedModel | PeftModel,
    rows: Sequence[Encoded],
    training: TrainingConfig,
    *,
    seed: int,
    pad_token: int,
    device: torch.device,
    order: Sampler[int] | None = None,
    full_batch: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    loss: TokenLoss | None = None,
    folder: Path,
    checkpoint_every: float | None = None,
) -> TrainLog:
    """Fine-tunes ``model`` in place on the response tokens of ``rows``.

    A training that was interrupted goes on from its last checkpoint and ends, on a CPU, in the same weights bit
    for bit. Where a callback cannot be resumed (:class:`asft.training.resume.Resumes`) it starts again.
    Several processes share out every batch and take one process' steps, equal to rounding; each draws its own dropout.

    Args:
        pad_token: id that fills batches up on the right (mask 0).
        device: where the model is; the Trainer is kept from moving it.
        order: row indices of one epoch after another; without it a permutation drawn from ``seed`` each epoch.
        full_batch: leave out each epoch's last rows that do not fill a batch of so many; a batch that was halved to fit
            into memory leaves out the same.
        loss: takes the place of the model's own.
        folder: a folder for the Trainer, which keeps its checkpoints there; without any it is removed at the end.
        checkpoint_every: seconds between two checkpoints; without it there are none.

    Raises:
        ValueError: when the loss is no longer finite, naming the step and the batch's rows; when no batch is
            full and one must be; when a launcher's variables would change the training.
    """
    check_launcher()
    order = order or EpochOrder(len(rows), seed)
    if full_batch is not None:
        order = FullBatches(order, full_batch)
    batches = math.ceil(len(order) / training.batch_size)  # type: ignore[arg-type]
    steps_per_epoch = math.ceil(batches / training.accumulation)
    keeper = Checkpointer(folder, callbacks, checkpoint_every) if checkpoint_every is not None else None
    trainer = _OrderedTrainer(
        model=model,
        args=_arguments(training, steps_per_epoch * training.epochs, seed, device, folder),
        train_dataset=EncodedRows(rows),
        data_collator=Collator(
            pad_token, training.max_length if training.pad_to_max_length else None, training.label_logits
        ),
        callbacks=[_Watch(), *callbacks, *([keeper] if keeper else [])],
        order=order,
        epoch_decay=training.epoch_decay,
        compute_loss_func=loss,
    )
    trainer.remove_callback(PrinterCallback)  # the heartbeat tells the progress
    model.train()
    if rank := team().rank:  # else the units that drop out of its rows would be those of the first process'
        torch.manual_seed(seed + 1_000_003 * rank)
    start = keeper.start if keeper else None
    if start:
        done = step_of(start)
        log.info("training goes on from step %d", done)
        for _ in range(done // steps_per_epoch):  # an order counts its epochs: bring it to the present one
            deque(order, maxlen=0)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    model.eval()
    if keeper is None and rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return TrainLog(history, trainer.state.global_step)


class _OrderedTrainer(Trainer):
    """A Trainer that takes rows in a given order, and decays the learning rate once an epoch."""

    def __init__(self, *, order: Sampler[int], epoch_decay: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._order, self._epoch_decay = order, epoch_decay

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's own; where there are several processes, this one's share of every batch."""
        self._train_batch_size = self.args.train_batch_size  # transformers 5.0 takes it from a checkpoint
        if (workers := team()).size == 1:
            return super().get_train_dataloader()
        if not self.model_accepts_loss_kwargs:  # its loss would be a mean over its own labels, whatever the others have
            raise ValueError(
                f"{type(self.model).__name__}: its loss cannot be averaged over several processes; start one process"
            )
        arguments, rows = self.args, self.train_dataset
        batches = BatchSampler(self._order, arguments.per_device_train_batch_size, drop_last=False)
        return DataLoader(
            rows,
            batch_sampler=DealtBatches(batches, workers.rank, workers.size, blank=len(rows)),
            collate_fn=self.data_collator,
            pin_memory=arguments.dataloader_pin_memory,
        )

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:  # type: ignore[has-type]
            per_epoch = max(1, num_training_steps // int(self.args.num_train_epochs))
            self.lr_scheduler = torch.optim.lr_scheduler.StepLR(
                optimizer or self.optimizer, step_size=per_epoch, gamma=self._epoch_decay
            )
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Stops at the first loss that is not finite, in every process: the rows behind it are known only here."""
        row_ids = inputs.pop("row_ids")
        if isinstance(self.compute_loss_func, TokenLoss):
            self.compute_loss_func.batch = {**self._prepare_inputs(inputs), "row_ids": row_ids}
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        found = team().gather(None if torch.isfinite(loss) else (loss.item(), row_ids))
        if bad := next(filter(None, found), None):
            value, rows = bad
            raise ValueError(
                f"training: the loss became {value} at step {self.state.global_step + 1}, on the rows "
                f"{', '.join(rows)}. Lower training.lr or the method's strength."
            )
        return loss

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuses weights that a checkpoint names otherwise than the model does; the Trainer goes on without them."""
        super()._issue_warnings_after_load(load_result)
        if load_result.unexpected_keys:
            raise ValueError(f"checkpoint: it holds weights that the model has not: {load_result.unexpected_keys[:3]}")


class _Watch(TrainerCallback):
    """Tells the heartbeat how far training is."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        tell(state.global_step, state.max_steps, "step")


def _arguments(
    training: TrainingConfig, steps: int, seed: int, device: torch.device, folder: Path
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=training.batch_size,  # the whole batch, which several processes share out
        gradient_accumulation_steps=training.accumulation,
        num_train_epochs=training.epochs,
        learning_rate=training.lr,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing or None,  # its name changes in transformers 6
        logging_steps=max(1, steps // _LOGGED_POINTS),
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen, not averaged away
        save_strategy="no",  # the Checkpointer asks for checkpoints
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        ddp_find_unused_parameters=False,
        seed=seed,
    )
    return one_gpu(arguments)


def one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """Keeps the Trainer on one GPU: where it sees several it takes DataParallel, and the batch grows with them.

    Sets the attribute that the Trainer itself sets where a model is spread over GPUs.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class TokenLoss:
    """Σ weight · cross-entropy over the step's labels, divided by their number.

    Weights of 1 give the gradients of the model's own loss, bit for bit.

    Args:
        weigh: from a batch with its ``row_ids`` and the logits about its labels, (labels, vocabulary), to a weight for
            each label, in the labels' shape.
    """

    def __init__(self, weigh: Callable[[Mapping[str, Any], Tensor], Tensor]) -> None:
        self.weigh = weigh
        self.batch: Mapping[str, Any] = {}  # the Trainer hands a loss only the labels, so the batch is left here
        self._acted: Tensor | None = None

    @property
    def acted(self) -> bool:
        """Whether any weight of a label was other than 1."""
        return self._acted is not None and bool(self._acted)

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs.logits
        with torch.no_grad():
            # A position's logits are about the next label; the last one's are about none.
            next_labels = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].to(logits.device)
            labelled = next_labels != IGNORED
            all_positions = logits.dim() == 3  # else they are about labels alone
            weights = self.weigh(self.batch, logits[labelled] if all_positions else logits)
            if weights.shape != labels.shape:
                raise ValueError(f"token_weights: of shape {tuple(weights.shape)}, labels of {tuple(labels.shape)}")
            next_weights = functional.pad(weights, (0, 1))[:, 1:].to(logits.device, torch.float32)
            next_weights = next_weights.where(labelled, torch.zeros_like(next_weights))
            if not all_positions:
                next_labels, next_weights = next_labels[labelled], next_weights[labelled]
            acted = ((next_weights != 1) & (next_labels != IGNORED)).any()
            self._acted = acted if self._acted is None else self._acted | acted
        losses = functional.cross_entropy(
            logits.float().flatten(0, -2), next_labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        assert num_items_in_batch is not None, "the Trainer counts labels where it is given a loss"
        return (losses * next_weights.flatten()).sum() / num_items_in_batch
