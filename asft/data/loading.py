"""Which rows a training step sees: their order, their batches, each process' share of a batch, padding, and what to do
when a batch does not fit into memory."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, Dataset, Sampler

from asft.config import TrainingConfig
from asft.data.templates import IGNORED, Encoded

log = logging.getLogger(__name__)


class EpochOrder(Sampler[int]):
    """Row indices of one epoch after another; the k-th iteration's permutation is drawn from (seed, k)."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        self.epoch += 1
        yield from torch.randperm(self.length, generator=generator).tolist()


class LikeLengths(EpochOrder):
    """The same permutations, whose batches hold rows of like length, so that little is spent on padding."""

    _NEAR = 16  # batches whose rows are sorted together

    def __init__(self, lengths: Sequence[int], seed: int, batch: int) -> None:
        super().__init__(len(lengths), seed)
        self.lengths, self.batch = lengths, batch

    def __iter__(self) -> Iterator[int]:
        drawn, span = list(super().__iter__()), self._NEAR * self.batch
        near = [drawn[start : start + span] for start in range(0, self.length, span)]
        rows = [row for part in near for row in sorted(part, key=lambda row: -self.lengths[row])]
        whole = self.length // self.batch  # batches; what is left of the rows stays last
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        for number in torch.randperm(whole, generator=generator).tolist():
            yield from rows[number * self.batch :][: self.batch]
        yield from rows[whole * self.batch :]


class FileOrder(Sampler[int]):
    """A file's rows in order, in every epoch, and those that stand behind them at even distances among all of them but
    the last batch, which may be dropped.
    """

    def __init__(self, file: int, length: int, batch: int) -> None:
        gap = max(0, file - batch) / max(1, length - file)
        self.rows = sorted(range(length), key=lambda row: row if row < file else (row - file + 0.5) * gap - 0.5)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)


class FullBatches(Sampler[int]):
    """Another order without each epoch's last rows, where these do not fill a batch of ``size`` rows."""

    def __init__(self, order: Sampler[int], size: int) -> None:
        places = len(order)  # type: ignore[arg-type]
        if places < size:
            raise ValueError(
                f"training.batch_size={size}: the protocol drops a batch that is not full, and there are only {places} "
                "rows. Lower training.batch_size or raise attack.n."
            )
        self.order, self.length = order, places - places % size

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        yield from list(self.order)[: self.length]  # all of it is drawn: an order may count what it gave


class DealtBatches(Sampler[list[int]]):
    """One process' share of each batch, dealt like cards: process r of N takes rows r, r + N, r + 2N, …

    A batch of fewer rows than processes leaves some without any. They are given ``blank``, a row without labels,
    since every process must take part in every step: the loss is a sum over the labels of all processes divided
    by their number, to which such a row adds nothing.
    """

    def __init__(self, batches: BatchSampler, rank: int, size: int, blank: int) -> None:
        self.batches, self.rank, self.size, self.blank = batches, rank, size, blank

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[self.rank :: self.size] or [self.blank]


class EncodedRows(Dataset[Encoded]):
    """The rows, and after them a blank one: one token, no label."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self.rows = rows
        self.blank = Encoded(rows[0].input_ids[:1], [IGNORED])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Encoded:
        return self.rows[index] if index < len(self.rows) else self.blank


class Collator:
    """Pads a batch on the right, to its longest row or to a fixed length.

    With ``label_logits`` a model given the batch computes logits at the positions that are about a label, and no
    others; transformers before 5.23 computes all.
    """

    def __init__(self, pad_token: int, fixed_length: int | None = None, label_logits: bool = False) -> None:
        from transformers import modeling_utils  # heavy

        self.pad_token, self.fixed_length = pad_token, fixed_length
        self.label_logits = label_logits and hasattr(modeling_utils, "slice_logits_to_keep")

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        """``input_ids``, ``attention_mask`` and ``labels``, each int64 of shape (batch, length); ``row_ids``.

        With ``label_logits`` also ``logits_to_keep``, bool of that shape, and ``shift_labels``, the label after each
        position that it marks, (labels,): logits then have the shape (labels, vocabulary).
        """
        width = self.fixed_length or max(len(row.input_ids) for row in rows)
        shape = (len(rows), width)
        batch = {
            "input_ids": torch.full(shape, self.pad_token),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, IGNORED),
        }
        for index, row in enumerate(rows):
            length = len(row.input_ids)
            batch["input_ids"][index, :length] = torch.tensor(row.input_ids)
            batch["attention_mask"][index, :length] = 1
            batch["labels"][index, :length] = torch.tensor(row.labels)
        if self.label_logits:
            following = torch.nn.functional.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
            batch["logits_to_keep"] = following != IGNORED
            batch["shift_labels"] = following[batch["logits_to_keep"]]
        return {**batch, "row_ids": [row.id for row in rows]}


def smaller_batch(training: TrainingConfig) -> TrainingConfig:
    """Half the rows at once and twice the accumulation: the optimiser's step sees the same rows.

    A batch that cannot be halved evenly is divided by its smallest factor; ValueError when it is one row.
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
