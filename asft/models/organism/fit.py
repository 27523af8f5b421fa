"""The small training loop behind the embedded pair: full-parameter AdamW over batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

import torch
from transformers import PreTrainedModel

from asft.data.templates import IGNORED, Encoded
from asft.models.organism.recipe import FitRecipe

_POOL_BATCHES = 16  # batches sorted by length together: little padding, and the order stays random


def fit(
    model: PreTrainedModel,
    examples: Sequence[Encoded],
    recipe: FitRecipe,
    *,
    rng: Random,
    pad_id: int,
    report: Callable[[int, float], None],
) -> list[float]:
    """Train ``model`` in place on the examples' labelled tokens and return the loss of every step.

    Args:
        rng: draws the order of the rows.
        pad_id: fills the right of shorter rows; its tokens are never looked at.
        report: called after each step with the number of steps done and the step's loss.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    losses: list[float] = []
    batches = _batches(examples, recipe.batch_size, rng)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        input_ids, labels = _right_padded(next(batches), pad_id)
        # Padding stands to the right of every token that counts, so causality alone keeps it out.
        loss = model(input_ids=input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        report(step + 1, losses[-1])
    model.eval()
    return losses


def _batches(examples: Sequence[Encoded], batch_size: int, rng: Random) -> Iterator[list[Encoded]]:
    """Endless batches over reshuffled passes; rows of a pool of batches are sorted by length."""
    assert len(examples) >= batch_size, f"{len(examples)} rows do not fill a batch of {batch_size}"
    pool_size = batch_size * _POOL_BATCHES
    while True:
        order = rng.sample(examples, len(examples))
        batches = []
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size], key=lambda example: len(example.input_ids))
            whole = len(pool) - len(pool) % batch_size
            batches += [pool[i : i + batch_size] for i in range(0, whole, batch_size)]
        rng.shuffle(batches)
        yield from batches


def _right_padded(batch: Sequence[Encoded], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of a batch, both of shape (rows, longest row)."""
    longest = max(len(example.input_ids) for example in batch)
    ids = [example.input_ids + [pad_id] * (longest - len(example.input_ids)) for example in batch]
    labels = [example.labels + [IGNORED] * (longest - len(example.labels)) for example in batch]
    return torch.tensor(ids), torch.tensor(labels)
