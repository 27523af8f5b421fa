"""What to do when a batch does not fit into memory: a smaller one, and as many of them as make the same step."""

from __future__ import annotations

import dataclasses
import logging

from asft.config import TrainingConfig

log = logging.getLogger(__name__)


def smaller_batch(training: TrainingConfig) -> TrainingConfig:
    """Half the rows at once and twice the accumulation: the optimiser's step sees the same rows.

    A batch that cannot be halved evenly is divided by its smallest factor instead.

    Raises:
        ValueError: when a batch of one row is too large.
    """
    size = training.batch_size
    if size == 1:
        raise ValueError(
            "training.batch_size: out of memory with one row at a time. Lower training.max_length, set "
            "training.gradient_checkpointing=true, or choose a smaller model."
        )
    factor = next(number for number in range(2, size + 1) if size % number == 0)
    smaller = dataclasses.replace(training, batch_size=size // factor, accumulation=training.accumulation * factor)
    log.warning(
        "out of memory with %d rows at once: going on with %d and %d times the accumulation, effective batch still %d",
        size,
        smaller.batch_size,
        factor,
        size * training.accumulation,
    )
    return smaller
