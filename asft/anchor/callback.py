"""AsFT as a ``transformers.TrainerCallback``: drop it into any Trainer or TRL SFTTrainer."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, SupportsFloat

from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from asft.anchor.anchor import Anchor
from asft.anchor.penalty import FullPenalty, Norms, Penalty, Scale, check_scale

logger = logging.getLogger(__name__)

Accumulation = Literal["step", "micro"]


class PenaltyCallback(TrainerCallback, ABC):
    """Adds a penalty's gradient to ``.grad`` before every optimiser step and logs where the update lies.

    The Trainer calls ``on_pre_optimizer_step`` after gradient clipping and before ``optimizer.step()``. The
    penalty's gradient is therefore outside the clipping (the reference code clips nothing) and acts once per
    optimiser step. It is computed from the parameters alone, after DDP has averaged the task's gradients, so
    it is identical on every rank. Under FSDP2 each rank computes it for its share of the modules, of which alone
    it holds the forms, and :meth:`norms` must be called on every rank. The reported ``loss`` and ``grad_norm``
    are those of the task.

    Each training log gains ``asft/penalty`` (λR at the end of the step), ``asft/norm_update``,
    ``asft/norm_along``, ``asft/norm_orthogonal`` and ``asft/modules``; they also enter
    ``trainer.state.log_history``. Reporters that the Trainer registers ahead of its callbacks (``report_to``)
    have seen the log by then; to reach them, move this callback to the front of
    ``trainer.callback_handler.callbacks``.

    Args:
        anchor: alignment directions of the modules that the penalty acts on.
        lam: λ ≥ 0, finite.
        accumulation: ``step`` adds λ∇R once per optimiser step. ``micro`` multiplies it by the number of
            micro-batches of the step, as in the reference code, which adds R to the loss of each micro-batch
            after the division by the number of accumulation steps.
    """

    def __init__(self, anchor: Anchor, lam: float, *, accumulation: Accumulation = "step") -> None:
        if not isinstance(anchor, Anchor):
            raise TypeError(f"anchor={anchor!r} is no Anchor; make one by Anchor.build(base, aligned, targets).")
        if not isinstance(lam, SupportsFloat) or not 0 <= lam < math.inf:
            raise ValueError(f"lam={lam!r} must be a finite number of at least 0.")
        if accumulation not in ("step", "micro"):
            raise ValueError(f"accumulation={accumulation!r} is unknown; allowed: step, micro.")
        self.anchor, self.lam, self.accumulation = anchor, lam, accumulation
        self.penalty: Penalty | FullPenalty | None = None
        self._micro_batches = 0

    @property
    def acted(self) -> bool:
        """Whether there is anything that the penalty acts on at the present parameters."""
        return self.lam * self.norms().penalty > 0

    @abstractmethod
    def bind(self, model: nn.Module) -> Penalty | FullPenalty:
        """The penalty on ``model``'s parameters."""

    def norms(self) -> Norms:
        """R/λ and the norms of the update at the present parameters; once training has begun."""
        assert self.penalty is not None, "on_train_begin comes first"
        return self.penalty.norms()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        check_training(args, kwargs["optimizer"])
        self.penalty = None  # a second training needs its room on the GPU
        self.penalty = self.bind(kwargs["model"])
        taken: set[str] = vars(state).setdefault("_asft_modules", set())  # a training has a state of its own
        if twice := taken.intersection(self.penalty.names):
            raise ValueError(
                f"{type(self).__name__}: {len(twice)} modules, {min(twice)} among them, already have the penalty of "
                "another callback of this training, and two would add up; give the trainer one."
            )
        taken.update(self.penalty.names)
        self._micro_batches = 0
        logger.debug("%s: λ=%g on %d modules", type(self).__name__, self.lam, len(self.penalty.names))

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        self._micro_batches += 1

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        assert self.penalty is not None, "on_train_begin comes first"
        times = self._micro_batches + 1 if self.accumulation == "micro" else 1
        self._micro_batches = 0
        self.penalty.add_gradients(self.lam * times)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if self.penalty is None or not logs.keys() & {"loss", "train_loss"}:
            return
        norms = asdict(self.norms())
        values = {"asft/penalty": self.lam * norms.pop("penalty"), "asft/modules": len(self.penalty.names)}
        values |= {f"asft/norm_{name}": norm for name, norm in norms.items()}
        logs.update(values)
        if state.log_history:  # the Trainer has copied the log there before this call
            state.log_history[-1].update(values)


class AsFTCallback(PenaltyCallback):
    """AsFT for LoRA: the gradient of λ Σ_l ‖Π_l B_l A_l‖² (arXiv:2506.08473), added before each optimiser step.

    >>> anchor = Anchor.build("base", "aligned", ["q_proj", "v_proj"])
    >>> Trainer(model=peft_model, ..., callbacks=[AsFTCallback(anchor, lam=1.0)])

    See :class:`PenaltyCallback` for when it acts and what it logs. It works under gradient accumulation,
    clipping, bf16, gradient checkpointing, DDP and FSDP2, and on quantised base weights.

    Args:
        anchor: alignment directions of the adapted modules.
        lam: λ; the paper uses 1 and finds 0.1 to 10 usable.
        scale: penalise BA (``raw``, as the reference code) or s·BA (``effective``); λ on BA is λ/s² on s·BA.
        allow_partial: accept LoRA modules without anchor and anchored modules without LoRA.

    Raises:
        ValueError: when training begins, naming what is not supported: an fp16 gradient scaler, FSDP1, tensor
            parallelism, DeepSpeed, optimisers that step inside backward, DoRA and other LoRA variants, AdaLoRA
            and other adapters, or an anchor that does not fit the adapter.
    """

    def __init__(
        self,
        anchor: Anchor,
        lam: float,
        *,
        scale: Scale = "raw",
        accumulation: Accumulation = "step",
        allow_partial: bool = False,
    ) -> None:
        super().__init__(anchor, lam, accumulation=accumulation)
        check_scale(scale)
        self.scale, self.allow_partial = scale, allow_partial

    def resume_state(self) -> dict[str, Tensor]:
        """Nothing: the penalty is a function of the anchor and the weights."""
        return {}

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to take back."""

    def bind(self, model: nn.Module) -> Penalty:
        return Penalty(self.anchor, model, scale=self.scale, allow_partial=self.allow_partial)


class FullAsFTCallback(PenaltyCallback):
    """AsFT for full-parameter training: the gradient 2λGΔW of λ Σ_l ‖Π_l ΔW_l‖² (our reading).

    ΔW = W − W(0), W(0) being the weights when training first begins, which must be the aligned model's; weights that
    are trained again (``auto_find_batch_size`` after memory ran out, a second ``train()``) keep it. Only the
    anchored 2-D linear weights are covered; embeddings, norms, biases and other linears train freely. λ acts
    on the true update: LoRA's λ on the raw BA corresponds to λ/s² here.

    Raises:
        ValueError: as :class:`AsFTCallback`; also when training resumes from a checkpoint (the starting
            weights are no longer there) or the model holds adapters.
    """

    def __init__(self, anchor: Anchor, lam: float, *, accumulation: Accumulation = "step") -> None:
        super().__init__(anchor, lam, accumulation=accumulation)
        self._starts = WeakTensorKeyDictionary()

    def bind(self, model: nn.Module) -> FullPenalty:
        return FullPenalty(self.anchor, model, self._starts)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step > 0:
            raise ValueError(
                f"resume_from_checkpoint at step {state.global_step} is not supported: FullAsFTCallback "
                "measures the change from the weights at the start, which a resumed run no longer has."
            )
        super().on_train_begin(args, state, control, **kwargs)


def check_training(args: TrainingArguments, optimizer: object) -> None:
    """Raises ValueError for set-ups in which adding to ``.grad`` before the step is not the penalty's gradient."""
    wrapped = optimizer if isinstance(optimizer, AcceleratedOptimizer) else None
    if args.fp16 or (wrapped is not None and wrapped.scaler is not None):
        asked = "fp16=True" if args.fp16 else "fp16 from accelerate (--mixed_precision, ACCELERATE_MIXED_PRECISION)"
        raise ValueError(
            f"{asked} is not supported: its scaler leaves gradients scaled before the step; use bf16 there."
        )
    strategy = wrapped.accelerator_state.distributed_type.value if wrapped is not None else ""
    if wrapped is not None and strategy == "FSDP" and wrapped.accelerator_state.fsdp_plugin.fsdp_version == 1:
        raise ValueError(
            "FSDP1 is not supported: it hides which rows a process has; use FSDP2 (fsdp_version 2) or DDP."
        )
    if args.deepspeed or strategy == "DEEPSPEED":
        raise ValueError(
            "deepspeed is not supported: it steps inside backward, ahead of the penalty; use FSDP2 or DDP."
        )
    if "layerwise" in args.optim or "lomo" in args.optim:
        raise ValueError(f"optim={str(args.optim)!r} is not supported: it steps inside backward, ahead of the penalty.")
