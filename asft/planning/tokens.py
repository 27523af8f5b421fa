"""How many tokens fine-tunes and evaluations have: counted on the data where data and tokenizer are here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from asft.cells.cell import CellConfig
from asft.data.rows import Row
from asft.jailbreaks.base import asked
from asft.planning.shape import aligned_folder
from asft.planning.trainings import rows

if TYPE_CHECKING:
    from asft.data.templates import ChatTemplate

log = logging.getLogger(__name__)

_SAMPLE = 200  # rows whose mean stands for all
_CHARACTERS_PER_TOKEN = 4  # English text under the usual vocabularies
_TEMPLATE_TOKENS = 20  # roles and markers around a row


@dataclass(frozen=True)
class RowTokens:
    """Mean and largest number of tokens of a training row, cut to ``training.max_length``.

    ``counted`` is False where the tokenizer or the data are not on this machine, and the lengths a guess.
    """

    mean: float
    longest: int
    counted: bool


def row_tokens(cell: CellConfig) -> RowTokens:
    """Tokens of the cell's training rows, of a sample of its mixture."""
    limit = cell.training.max_length
    sample = _sample(cell)
    if not sample:
        lengths, counted = [limit / 2], False
    else:
        template = _template(aligned_folder(cell))
        counted = template is not None
        lengths = [min(limit, _length(row, template, limit)) for row in sample]
    if cell.training.pad_to_max_length:
        lengths = [float(limit)]
    return RowTokens(fmean(lengths), round(max(lengths)), counted)


def training_tokens(cell: CellConfig, per_row: RowTokens) -> int:
    """Tokens that a fine-tune on the user's rows sees, all epochs together."""
    return round(rows(cell) * per_row.mean * cell.training.epochs)


def answer_tokens(cell: CellConfig) -> int:
    """Tokens that a cell generates at most: answers that end early make it less."""
    evaluation, dataset = cell.evaluation, cell.dataset
    return evaluation.n_harmful * evaluation.harmful_max_new_tokens + dataset.n_test * dataset.max_new_tokens


def disguised_tokens(cell: CellConfig) -> RowTokens | None:
    """Tokens of a malicious prompt under the cell's jailbreak; None without one, without the data or its package."""
    from asft.data.sources import load_data

    if not cell.jailbreak.acts:
        return None
    try:
        cell.jailbreak.check()
        rows = asked(cell.jailbreak, load_data(cell).evaluation[:_SAMPLE])
    except (ValueError, OSError):
        return None
    template = _template(aligned_folder(cell))
    lengths = [_length(row, template, None) for row in rows]
    return RowTokens(fmean(lengths), round(max(lengths)), template is not None)


def _sample(cell: CellConfig) -> list[Row]:
    """Rows in the mixture's proportions, or none where the data cannot be read."""
    from asft.data.sources import load_data

    try:
        data = load_data(cell)
    except (ValueError, OSError) as error:
        log.warning("%s; token counts are estimates", error)
        return []
    share = cell.attack.harmful_count() / rows(cell)
    harmful = round(_SAMPLE * share)
    return [*data.train[: _SAMPLE - harmful], *data.harmful[:harmful]]


def _length(row: Row, template: ChatTemplate | None, limit: int | None) -> float:
    """Tokens of a training row; without a limit, of a row's prompt alone."""
    if template is None:
        characters = len(row.instruction) + len(row.input) + len(row.output)
        return characters / _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS
    if limit is None:
        return len(template.encode_prompt(row))
    try:
        return len(template.encode_example(row, limit).input_ids)
    except ValueError:  # the prompt alone fills the limit
        return limit


@lru_cache(maxsize=4)
def _template(folder: Path | None) -> ChatTemplate | None:
    """The chat template of a model that is here; None where its tokenizer is not, or has no template."""
    from transformers import AutoTokenizer

    from asft.data.templates import ChatTemplate

    if folder is None:
        return None
    try:
        return ChatTemplate(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except (ValueError, OSError):
        return None
