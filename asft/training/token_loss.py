"""The training loss with a weight for every label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asft.data.templates import IGNORED


class TokenLoss:
    """Σ weight · cross-entropy over the step's labels, divided by their number.

    Weights of 1 give the gradients of the model's own loss, bit for bit.

    Args:
        weigh: from a batch with its ``row_ids`` and the logits to a weight for each label, in the labels' shape.
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
            weights = self.weigh(self.batch, logits)
            if weights.shape != labels.shape:
                raise ValueError(f"token_weights: of shape {tuple(weights.shape)}, labels of {tuple(labels.shape)}")
            # A position's logits are about the next label; the last one's are about none.
            next_labels = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].to(logits.device)
            next_weights = functional.pad(weights, (0, 1))[:, 1:].to(logits.device, torch.float32)
            next_weights = next_weights.where(next_labels != IGNORED, torch.zeros_like(next_weights))
            acted = ((next_weights != 1) & (next_labels != IGNORED)).any()
            self._acted = acted if self._acted is None else self._acted | acted
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), next_labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        assert num_items_in_batch is not None, "the Trainer counts labels where it is given a loss"
        return (losses * next_weights.flatten()).sum() / num_items_in_batch
