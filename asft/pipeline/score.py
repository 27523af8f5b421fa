"""The harmful score of a model as it stands, for landscapes that move it about and ask it again and again."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from asft.backends.generate import generate
from asft.cells.cell import Cell
from asft.data.protocol import protocol_of
from asft.data.sources import Data
from asft.data.templates import user_text
from asft.models.pair import Pair


def scorer(cell: Cell, pair: Pair, data: Data, model: PreTrainedModel, prompts: int) -> Callable[[], float]:
    """A function that returns HS in percent over the first ``prompts`` malicious prompts; they are encoded once."""
    tokenizer = pair.tokenizer()
    template, rows = protocol_of(cell).template(tokenizer), data.evaluation[:prompts]
    encoded, texts = [template.encode_prompt(row) for row in rows], [user_text(row) for row in rows]

    def score() -> float:
        generated = generate(
            model,
            tokenizer,
            encoded,
            max_new_tokens=cell.evaluation.harmful_max_new_tokens,
            batch_size=cell.evaluation.batch_size,
        )
        answers = [template.answer(row, text) for row, text in zip(rows, generated, strict=True)]
        verdicts = cell.judge.judge(texts, answers)
        return 100 * sum(verdict.flagged for verdict in verdicts) / len(verdicts)

    return score
