"""Lisa's part in training: the order of its two states' rows, and the proximal term between their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from asft.data.loading import EpochOrder, FullBatches

_STATES = {True: "alignment", False: "user"}


class TwoStateOrder(Sampler[int]):
    """Row indices of one epoch after another: user rows, with alignment rows in the alignment steps' places.

    Alignment rows stand in the dataset from row ``first`` on. An epoch has as many places as ``user``.
    """

    def __init__(
        self,
        user: EpochOrder | FullBatches,
        guide: EpochOrder,
        first: int,
        per_step: int,
        is_alignment: Callable[[int], bool],
    ) -> None:
        self.user, self.guide, self.first, self.per_step = user, guide, first, per_step
        self.is_alignment, self.step = is_alignment, 0
        self._guide_rows = self._endless()

    def __len__(self) -> int:
        return len(self.user)

    def __iter__(self) -> Iterator[int]:
        rows = list(self.user)
        for start in range(0, len(rows), self.per_step):
            batch = rows[start : start + self.per_step]
            if self.is_alignment(self.step):
                batch = [self.first + next(self._guide_rows) for _ in batch]
            self.step += 1
            yield from batch

    def _endless(self) -> Iterator[int]:
        while True:
            yield from self.guide


class ProximalCallback(TrainerCallback):
    """Adds ρ(θ − anchor of the other state) straight to the gradient.

    Keeps one copy of the trainable weights per state and pulls each state towards the other's last weights.

    Args:
        rho: ρ ≥ 0.
        is_alignment: whether optimiser step k (from 0) is in the alignment state.
        warmup: share of all steps before the term acts.
    """

    def __init__(self, rho: float, is_alignment: Callable[[int], bool], warmup: float) -> None:
        self.rho, self.is_alignment, self.warmup = rho, is_alignment, warmup
        self.acted = 0  # steps
        self.weights: list[torch.nn.Parameter] = []
        self.anchors: dict[bool, list[Tensor]] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **_: Any,
    ) -> None:
        """Both anchors start at the initial weights."""
        assert model is not None, "the Trainer hands its model to callbacks"
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.anchors = {aligning: self._copy() for aligning in (True, False)}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Adds the term's gradient, after clipping and once per optimiser step."""
        if state.global_step <= self.warmup * state.max_steps:
            return
        other = self.anchors[not self.is_alignment(state.global_step)]
        for weight, anchor in zip(self.weights, other, strict=True):
            assert weight.grad is not None, "a trainable weight has a gradient before the step"
            weight.grad.add_(weight.detach() - anchor, alpha=self.rho)
        self.acted += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leaving a state, keeps its weights; ``global_step`` is the number of steps done."""
        done = self.is_alignment(state.global_step - 1)
        if self.is_alignment(state.global_step) != done:
            self.anchors[done] = self._copy()

    def resume_state(self) -> dict[str, Tensor]:
        """Both states' anchors, ``alignment.0`` … and ``user.0`` …, in the weights' order."""
        return {
            f"{_STATES[aligning]}.{index}": anchor
            for aligning, anchors in self.anchors.items()
            for index, anchor in enumerate(anchors)
        }

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes the anchors back, onto the weights' devices."""
        self.anchors = {
            aligning: [state[f"{name}.{index}"].to(weight.device) for index, weight in enumerate(self.weights)]
            for aligning, name in _STATES.items()
        }

    def _copy(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self.weights]
