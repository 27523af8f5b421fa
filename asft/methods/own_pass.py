"""Passes that a method runs for itself beside the training's: on rows of its own, in evaluation mode, once a step.

No random number is drawn, so that a step at which a method does nothing is SFT's bit for bit. Every process takes the
same rows, so that there is nothing to average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from asft.data.loading import Collator
from asft.data.protocol import protocol_of
from asft.data.rows import Row
from asft.data.templates import IGNORED, Encoded
from asft.methods.base import Context

if TYPE_CHECKING:
    from asft.methods.base import Model

Batch = dict[str, Tensor]


def examples(rows: Sequence[Row], ctx: Context) -> list[Encoded]:
    """Rows as training would see them, answers labelled."""
    template = protocol_of(ctx.cell).template(ctx.pair.tokenizer())
    return [template.encode_example(row, ctx.cell.training.max_length) for row in rows]


def prompts(rows: Sequence[Row], ctx: Context) -> list[Encoded]:
    """Rows as they are asked, without answers."""
    template = protocol_of(ctx.cell).template(ctx.pair.tokenizer())
    asked = [template.encode_prompt(row) for row in rows]
    return [Encoded(ids, [IGNORED] * len(ids), row.id) for row, ids in zip(rows, asked, strict=True)]


def batches(encoded: Sequence[Encoded], ctx: Context, size: int, device: torch.device) -> list[Batch]:
    """Fixed batches of ``size`` rows, padded on the right; the last may be smaller."""
    padding = protocol_of(ctx.cell).padding(ctx.pair.tokenizer())
    collate = Collator(padding, label_logits=ctx.cell.training.label_logits)
    parts = [collate(encoded[start : start + size]) for start in range(0, len(encoded), size)]
    return [{name: held.to(device) for name, held in part.items() if name != "row_ids"} for part in parts]


def answer_logits(model: Model, batch: Batch) -> Tensor:
    """The logits about every label, (labels, vocabulary), at least float32."""
    inputs = {name: part for name, part in batch.items() if name not in {"labels", "shift_labels"}}
    logits: Tensor = model(**inputs).logits
    if logits.dim() == 3:  # at all positions
        logits = logits[:, :-1][batch["labels"][:, 1:] != IGNORED]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; afterwards the model is in the mode that it was in."""
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """‖·‖ over all entries of all tensors."""
    return torch.linalg.vector_norm(stacked([torch.linalg.vector_norm(tensor) for tensor in tensors]))


def stacked(scalars: Sequence[Tensor]) -> Tensor:
    """The scalars in a row, on the first one's device: a model may be spread over several."""
    return torch.stack([scalar.to(scalars[0].device) for scalar in scalars])


class OwnPass(TrainerCallback):
    """A callback made of functions that are called in evaluation mode.

    Args:
        model: whose trainable weights are acted on.
        before: called with the number of steps done when ``.grad`` holds the task's finished gradient.
        after: called with that number and the optimiser once it has made its step.
        end: called when training is over.
        state: what the functions hold beyond the weights and change in place; a resumed training takes it back.

    Attributes:
        weights: the trainable weights.
        steps: how many the training takes; 0 before the first.
        acted: how many steps were changed, counted by the functions.
    """

    def __init__(
        self,
        model: Model,
        *,
        before: Callable[[int], None] | None = None,
        after: Callable[[int, Any], None] | None = None,
        end: Callable[[], None] | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.before, self.after, self.end = model, before, after, end
        self.state = dict(state or {})
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.acted = self.steps = 0

    def gradient(self, loss: Tensor) -> list[Tensor]:
        """∇loss over ``weights``, 0 of those that it does not use; ``.grad`` is left as it is."""
        return list(torch.autograd.grad(loss, self.weights, materialize_grads=True))

    def task_gradient(self) -> list[Tensor]:
        """``.grad`` over ``weights``."""
        return [_grad(weight) for weight in self.weights]

    def add_change(self, loss: Callable[[], Tensor], distance: float, factor: float) -> None:
        """Adds factor · (g − g') to ``.grad``: g = ∇loss at the weights, g' at distance · g/(‖g‖ + 1e-7) from them."""
        here, kept = self.gradient(loss()), [weight.detach().clone() for weight in self.weights]
        self.shift(here, distance)
        there = self.gradient(loss())
        with torch.no_grad():
            torch._foreach_copy_(self.weights, kept)  # subtracting what was added would leave its rounding
        self.add([one - other for one, other in zip(here, there, strict=True)], factor)

    @torch.no_grad()
    def shift(self, direction: Sequence[Tensor], distance: float) -> None:
        """Moves the weights by distance · direction/(‖direction‖ + 1e-7)."""
        scale = distance / (norm(direction).item() + 1e-7)
        torch._foreach_add_(self.weights, list(direction), alpha=scale)

    @torch.no_grad()
    def add(self, gradient: Sequence[Tensor], factor: float = 1.0) -> None:
        """Adds a multiple of a gradient to ``.grad``; a step counts as changed where any of it is other than 0."""
        torch._foreach_add_(self.task_gradient(), list(gradient), alpha=factor)
        self.acted += bool(factor) and bool(norm(gradient))

    def resume_state(self) -> dict[str, Tensor]:
        """``state``, and how often it acted."""
        return {**self.state, "acted": torch.tensor(self.acted)}

    def load_resume_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes both back, ``state`` in place."""
        self.acted = int(state["acted"])
        for name, held in self.state.items():
            held.copy_(state[name])

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.steps = state.max_steps
        if self.before:
            with evaluating(self.model):
                self.before(state.global_step)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        if self.after:
            with evaluating(self.model):
                self.after(state.global_step, optimizer)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.end:
            with evaluating(self.model):
                self.end()


def _grad(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None, "a trainable weight has a gradient before the step"
    return weight.grad


def in_parts(modules: Mapping[str, Any], room: int = 2**31) -> Iterator[dict[str, nn.Module]]:
    """The modules in groups whose i×i matrices in float64 fit into ``room`` bytes, or of one module."""
    part: dict[str, nn.Module] = {}
    taken = 0
    for name, module in modules.items():
        size = 8 * module.in_features**2
        if part and taken + size > room:
            yield part
            part, taken = {}, 0
        part[name], taken = module, taken + size
    yield part


@torch.no_grad()
def input_sums(
    model: Model, modules: Mapping[str, nn.Module], given: Sequence[Batch], summed: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Σ over batches of ``summed`` of each module's inputs, float64 of shape (rows, length, i), 0 where padding is."""
    totals: dict[str, Tensor] = {}
    mask = torch.empty(0)

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = summed(inputs[0].double() * mask[..., None].to(inputs[0].device))
            totals[name] = totals[name] + seen if name in totals else seen

        return see

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        with evaluating(model):
            for batch in given:
                mask = batch["attention_mask"].double()
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    finally:
        for handle in handles:
            handle.remove()
    return totals
