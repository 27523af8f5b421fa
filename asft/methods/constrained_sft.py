"""Constrained SFT: holds the first answer tokens near the start's probabilities (arXiv:2406.05946).

With x_t = log π_θ − log π₀ of an answer's token t, π₀ being the model at the start, its loss has the weight max(1e-3,
2(1 − σ(β_t x_t))), through which no gradient flows: the gradient is that of −(2/β_t) log σ(β_t x_t), but for the floor.
β_t is large where refusals live: 5β at the first token, 20β at tokens 2 to 5, β after. The loss is a mean over all
answer tokens of the step, as everywhere here.

log π₀ is computed once, for all rows before training. The reference marks padding by a magic number among the
log-probabilities; here a row's are kept by its id, and a row whose length has changed is an error. The paper trains
without dropout (training.dropout=0) and with Adam's β₁ = 0.5, which is not an option here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Method, Strength

if TYPE_CHECKING:
    from torch import Tensor

    from asft.methods.base import Model, TokenWeights


@dataclass(frozen=True)
class ConstrainedSFT(Method):
    """A token that is already more probable than at the start counts for less.

    Attributes:
        beta: β; 0.1 in the authors' code. At 0 every weight is 1.
        first, early: factors of β at the first token, and after it up to ``early_tokens``; 5, 20 and 5 in the code.
        floor: the least weight; 1e-3 in the code.
        batch: rows in one pass for log π₀; changes nothing but rounding.
    """

    name: ClassVar[str] = "constrained_sft"
    label: ClassVar[str] = "Constrained SFT"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.beta", "β", 0.01, 10, "log", off=0),)
    beta: Annotated[float, Field(ge=0)] = 0.1
    first: Annotated[float, Field(ge=0)] = 5.0
    early: Annotated[float, Field(ge=0)] = 20.0
    early_tokens: Annotated[int, Field(ge=1)] = 5
    floor: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    batch: Annotated[int, Field(ge=1)] = 8

    def token_weights(self, model: Model, ctx: Context) -> TokenWeights:
        """The weights, given log π₀ of every training row."""
        import torch

        from asft.methods.own_pass import answer_logits, batches, evaluating

        start: dict[str, Tensor] = {}
        with evaluating(model), torch.no_grad():
            for index, batch in enumerate(batches(ctx.encoded, ctx, self.batch, model.device)):
                rows, found = ctx.encoded[index * self.batch :], answer_logits(model, batch)
                for row, known in zip(rows, log_probabilities(batch["labels"], found), strict=False):
                    start[row.id] = known[: len(row.labels)].cpu()
        if len(start) < len(ctx.encoded):
            raise ValueError(f"method={self.name}: two training rows have one id; rows are told apart by it")

        def weigh(batch: Mapping[str, Any], logits: Tensor) -> Tensor:
            labels = batch["labels"]
            reference = torch.zeros(labels.shape, device=logits.device)
            for line, (row, mask) in enumerate(zip(batch["row_ids"], batch["attention_mask"], strict=True)):
                if row in start:  # a process without rows is given one that has no label
                    reference[line, : int(mask.sum())] = start[row].to(logits.device)
            return self.weights(labels, log_probabilities(labels, logits) - reference)

        return weigh

    def weights(self, labels: Tensor, gain: Tensor) -> Tensor:
        """The weight of each label (rows, length), given x there."""
        import torch

        from asft.data.templates import IGNORED

        place = (labels != IGNORED).cumsum(-1)
        factor = torch.where(place <= 1, self.first, torch.where(place <= self.early_tokens, self.early, 1.0))
        return (2 * (1 - (self.beta * factor * gain).sigmoid())).clamp(min=self.floor)


def log_probabilities(labels: Tensor, logits: Tensor) -> Tensor:
    """log π of each label given what stands before it (rows, length), at least float32; 0 where there is no label.

    ``logits`` are those about the labels, (labels, vocabulary).
    """
    import torch

    from asft.data.templates import IGNORED

    labelled = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (1, 0))  # nothing stands before a row's first token
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    found = torch.zeros(labels.shape, dtype=logits.dtype, device=logits.device)
    found[labelled] = logits.log_softmax(-1).gather(-1, labels[labelled][:, None])[:, 0]
    return found
