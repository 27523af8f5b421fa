"""The generate stage's work: what a metric asks a model, and the answers as they are stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asft.backends.base import Answerer
from asft.cells.cell import Cell
from asft.config import Dtype
from asft.data.protocol import protocol_of
from asft.data.rows import Row
from asft.data.sources import Data
from asft.data.templates import user_text
from asft.distributed.team import team
from asft.jailbreaks.base import require_context
from asft.methods.base import Start
from asft.metrics.base import Metric
from asft.metrics.harmful_score import HarmfulScore
from asft.models.pair import Pair
from asft.store.entries import ANSWERS_FILE, write_jsonl
from asft.store.partial import PartialRows


@dataclasses.dataclass(frozen=True)
class Questions:
    """Rows that are asked with one limit and in one number format.

    Attributes:
        rows: as they are stored and judged.
        queries: as they are put to the model, with a method's system text and a jailbreak's disguise.
        prompts: token ids of ``queries``.
        max_new_tokens: of each answer.
        dtype: the number format that the protocol asks for; None is the pair's own.
    """

    rows: Sequence[Row]
    queries: Sequence[Row]
    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    dtype: Dtype | None

    @property
    def positions(self) -> int:
        """Tokens of the longest prompt and its answer."""
        return max(map(len, self.prompts), default=0) + self.max_new_tokens


def questions_of(cell: Cell, metric: Metric, pair: Pair, data: Data, system: str = "") -> Questions:
    """What a metric asks.

    Args:
        system: the method's system text, put before every query.

    Raises:
        ValueError: when the disguise of a jailbreak is longer than the model can read.
    """
    protocol = protocol_of(cell)
    template = protocol.template(pair.tokenizer())
    rows, tokens = metric.rows(data), metric.max_new_tokens(cell)
    queries = [dataclasses.replace(row, system=system) for row in metric.queries(rows)]
    prompts = [template.encode_prompt(row) for row in queries]
    if isinstance(metric, HarmfulScore) and metric.jailbreak.acts:
        start = cell.method.start()
        positions = pair.positions(start.side if isinstance(start, Start) else start)
        require_context(metric.jailbreak, prompts, tokens, positions)
    return Questions(rows, queries, prompts, tokens, metric.dtype(protocol))


def answer(
    cell: Cell, pair: Pair, model: Answerer, questions: Questions, *, kept: Path, folder: Path
) -> dict[str, Any]:
    """Answers the questions and writes them to ``folder``; what is returned goes into the stage's manifest.

    Of several processes all must call it, and rank 0 writes.

    Args:
        kept: where an interrupted run's answers are, and new ones are added.
    """
    template = protocol_of(cell).template(pair.tokenizer())
    generated = model.answer(questions.prompts, questions.max_new_tokens, PartialRows(kept / ANSWERS_FILE))
    texts = map(template.answer, questions.queries, generated)
    if team().rank == 0:
        write_jsonl(folder / ANSWERS_FILE, map(_answered, questions.rows, questions.queries, texts))
    return {"answers": len(questions.rows), **model.told}


def _answered(row: Row, query: Row, text: str) -> dict[str, str]:
    """An answer as it is stored, with what was asked, and beside it how a jailbreak put it where one did."""
    prompt, put = user_text(row), user_text(query)
    disguised = {} if put == prompt else {"asked": put}
    return {"id": row.id, "prompt": prompt, **disguised, "gold": row.output, "answer": text}
