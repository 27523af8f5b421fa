"""The generate stage's work: what a cell asks a model, and the answers as they are stored."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asft.backends.base import Weights
from asft.cells.cell import Cell
from asft.config import Dtype
from asft.data.protocol import protocol_of
from asft.data.rows import Row
from asft.data.sources import Data
from asft.distributed.team import team
from asft.jailbreaks.base import asked, require_context
from asft.methods.base import Start
from asft.models.pair import Pair
from asft.pipeline.verdicts import answered
from asft.store.entries import HARMFUL_FILE, TASK_FILE, write_jsonl
from asft.store.partial import PartialRows


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows that are asked with one limit and in one number format.

    Attributes:
        name: the file that their answers are kept in.
        rows: as they are stored and judged.
        queries: as they are put to the model, with a method's system text and a jailbreak's disguise.
        prompts: token ids of ``queries``.
        max_new_tokens: of each answer.
        dtype: the number format that the protocol asks for; None is the pair's own.
    """

    name: str
    rows: Sequence[Row]
    queries: Sequence[Row]
    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    dtype: Dtype | None

    @property
    def positions(self) -> int:
        """Tokens of the longest prompt and its answer."""
        return max(map(len, self.prompts), default=0) + self.max_new_tokens


def parts_of(cell: Cell, pair: Pair, data: Data, system: str = "") -> list[Part]:
    """The malicious prompts and the task's test rows.

    Args:
        system: the method's system text, put before every query.

    Raises:
        ValueError: when the disguise of a jailbreak is longer than the model can read.
    """
    protocol = protocol_of(cell)
    template = protocol.template(pair.tokenizer())

    def part(name: str, rows: Sequence[Row], put: Sequence[Row], tokens: int, dtype: Dtype | None) -> Part:
        queries = [dataclasses.replace(row, system=system) for row in put]
        return Part(name, rows, queries, [template.encode_prompt(row) for row in queries], tokens, dtype)

    disguised, tokens = asked(cell.jailbreak, data.evaluation), cell.evaluation.harmful_max_new_tokens
    harmful = part(HARMFUL_FILE, data.evaluation, disguised, tokens, protocol.harmful_dtype)
    if cell.jailbreak.acts:
        start = cell.method.start()
        positions = pair.positions(start.side if isinstance(start, Start) else start)
        require_context(cell.jailbreak, harmful.prompts, tokens, positions)
    return [harmful, part(TASK_FILE, data.test, data.test, cell.dataset.max_new_tokens, protocol.task_dtype)]


def answer_parts(
    cell: Cell, weights: Weights, parts: Sequence[Part], *, kept: Path, folder: Path, plain: Path | None
) -> dict[str, Any]:
    """Answers every part and writes it to ``folder``; what is returned goes into the stage's manifest.

    Of several processes all must call it, and rank 0 writes.

    Args:
        weights: those that answer; their number format and positions are the parts'.
        kept: where an interrupted run's answers are, and new ones are added.
        plain: folder of the same weights' answers without the cell's jailbreak, which changes no task row.
    """
    told: dict[str, Any] = {}
    by_template = protocol_of(cell).template(weights.pair.tokenizer())
    longest = max(part.positions for part in parts)
    todo = [part for part in parts if part.name != TASK_FILE or plain is None]
    writes = team().rank == 0
    if plain is not None and writes:
        shutil.copyfile(plain / TASK_FILE, folder / TASK_FILE)
    for dtype, group in itertools.groupby(todo, key=lambda part: part.dtype):
        opened = dataclasses.replace(weights, dtype=dtype, positions=longest)
        with contextlib.closing(cell.backend.open(opened, cell.evaluation.batch_size)) as model:
            for part in group:
                generated = model.answer(part.prompts, part.max_new_tokens, PartialRows(kept / part.name))
                texts = map(by_template.answer, part.queries, generated)
                if writes:
                    write_jsonl(folder / part.name, map(answered, part.rows, part.queries, texts))
            told |= model.told
    return {**{part.name.removesuffix(".jsonl"): len(part.rows) for part in parts}, **told}
