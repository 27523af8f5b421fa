"""Lisa's part in training: the order of its two states' rows, and the proximal term between their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler

from asft.data.loading import EpochOrder
from asft.methods.own_pass import OwnPass

if TYPE_CHECKING:
    from asft.methods.base import Model


class TwoStateOrder(Sampler[int]):
    """Row indices of one epoch after another: user rows, with alignment rows in the alignment steps' places.

    Alignment rows stand in the dataset from row ``first`` on. An epoch has as many places as ``user``.
    """

    def __init__(
        self,
        user: Sampler[int],
        guide: EpochOrder,
        first: int,
        per_step: int,
        is_alignment: Callable[[int], bool],
    ) -> None:
        self.user, self.guide, self.first, self.per_step = user, guide, first, per_step
        self.is_alignment, self.step = is_alignment, 0
        self._guide_rows = self._endless()

    def __len__(self) -> int:
        return len(self.user)  # type: ignore[arg-type]  # every order here has a length

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


def proximal(model: Model, rho: float, is_alignment: Callable[[int], bool], warmup: float) -> OwnPass:
    """Adds ρ(θ − θ_other) to the gradient, θ_other being the weights at which the other state was last left.

    Both states' are the initial weights at first.

    Args:
        rho: ρ ≥ 0.
        is_alignment: whether optimiser step k (from 0) is in the alignment state.
        warmup: share of all steps before the term acts.
    """

    def before(step: int) -> None:
        if step > warmup * own.steps:
            other = left[not is_alignment(step)]
            own.add([weight.detach() - anchor for weight, anchor in zip(own.weights, other, strict=True)], rho)

    def after(step: int, optimizer: Any) -> None:
        if is_alignment(step + 1) != is_alignment(step):
            with torch.no_grad():
                torch._foreach_copy_(left[is_alignment(step)], own.weights)

    own = OwnPass(model, before=before, after=after)
    left = {aligning: [weight.detach().clone() for weight in own.weights] for aligning in (True, False)}
    own.state = {f"{aligning}.{index}": held for aligning in left for index, held in enumerate(left[aligning])}
    return own
