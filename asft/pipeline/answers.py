"""What a metric asks a model, the answers as they are stored, and a cell's scores from stored answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft.backends.base import Answerer, Chooser
from asft.backends.generate import generate
from asft.cells.cell import Cell
from asft.config import Dtype
from asft.data.base import Data
from asft.data.protocol import protocol_of
from asft.data.rows import Choice, Row, user_text
from asft.data.templates import Template
from asft.distributed.team import team
from asft.jailbreaks.base import require_context
from asft.methods.base import Start
from asft.metrics.base import Metric, Scored
from asft.metrics.harmful_score import HarmfulScore
from asft.models.pair import Pair
from asft.store.entries import Entry, write_jsonl
from asft.store.partial import PartialRows
from asft.store.schemas import ANSWERS_FILE, Answered, read_rows


@dataclasses.dataclass(frozen=True)
class Questions:
    """Rows that are asked with one limit and in one number format.

    Attributes:
        rows: as they are stored and judged.
        queries: as they are put to the model, with a method's system text and a jailbreak's disguise.
        prompts: token ids of ``queries``.
        max_new_tokens: of each answer.
        dtype: the number format that the protocol asks for; None is the pair's own.
        options: token ids of what is chosen among; empty where answers are generated.
    """

    rows: Sequence[Row]
    queries: Sequence[Row]
    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    dtype: Dtype | None
    options: Sequence[Sequence[Sequence[int]]] = ()

    @property
    def positions(self) -> int:
        """Tokens of the longest prompt and its answer."""
        longest = max((len(ids) for many in self.options for ids in many), default=self.max_new_tokens)
        return max(map(len, self.prompts), default=0) + longest


def questions_of(cell: Cell, metric: Metric, pair: Pair, data: Data, system: str = "") -> Questions:
    """What a metric asks; ``system`` is the method's system text, put before every query.

    ValueError when the disguise of a jailbreak is longer than the model can read.
    """
    protocol = protocol_of(cell)
    tokenizer = pair.tokenizer()
    template = protocol.template(tokenizer)
    rows, tokens = metric.rows(data), metric.max_new_tokens(cell)
    if choices := [row for row in rows if isinstance(row, Choice)]:
        asked = [encode_choice(replace(row, system=system), template, tokenizer) for row in choices]
        questions, options = zip(*asked, strict=True)
        return Questions(rows, rows, questions, 0, metric.dtype(protocol), options)
    queries = [replace(row, system=system) for row in metric.queries(rows)]
    prompts = [template.encode_prompt(row) for row in queries]
    if isinstance(metric, HarmfulScore) and metric.jailbreak.acts:
        start = cell.method.start()
        positions = pair.positions(start.side if isinstance(start, Start) else start)
        require_context(metric.jailbreak, prompts, tokens, positions)
    return Questions(rows, queries, prompts, tokens, metric.dtype(protocol))


def encode_choice(
    row: Choice, template: Template, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a question, and of what follows it in each option."""
    if not row.bare:
        ids = template.encode_prompt(row)
        return ids, [list(tokenizer(option, add_special_tokens=False)["input_ids"]) for option in row.options]
    text = user_text(row)
    ids = list(tokenizer(text)["input_ids"])
    return ids, [list(tokenizer(f"{text} {option}")["input_ids"])[len(ids) :] for option in row.options]


def answer(
    cell: Cell, pair: Pair, model: Answerer, questions: Questions, *, kept: Path, folder: Path
) -> dict[str, Any]:
    """Answers the questions and writes them to ``folder``; what is returned goes into the stage's manifest.

    Of several processes all must call it, and rank 0 writes. An interrupted run's answers are in ``kept``.
    """
    template = protocol_of(cell).template(pair.tokenizer())
    texts: Iterable[str]
    if questions.options:
        rows = cast("Sequence[Choice]", questions.rows)
        chosen = cast("Chooser", model).choose(questions.prompts, questions.options)
        texts = [row.options[place] for row, place in zip(rows, chosen, strict=True)]
    else:
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


def scorer(cell: Cell, pair: Pair, data: Data, model: PreTrainedModel, prompts: int) -> Callable[[], float]:
    """A function that returns the model's HS in percent as it stands, over the first ``prompts`` malicious prompts.

    For landscapes that move it about and ask it again and again; prompts are encoded once.
    """
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
            ends=template.ends,
        )
        answers = [template.answer(row, text) for row, text in zip(rows, generated, strict=True)]
        verdicts = cell.judge.judge(texts, answers)
        return 100 * sum(verdict.flagged for verdict in verdicts) / len(verdicts)

    return score


def judge_answers(cell: Cell, name: str, metric: Metric, answers: Entry, folder: Path, kept: Path) -> dict[str, Any]:
    """Scores what was answered and writes the answers again to ``folder``, each with its credit and verdict.

    ``kept`` is the folder of an interrupted run's verdicts. Returns what the manifest keeps of a metric.
    """
    file = f"{name}.jsonl"
    rows = list(read_rows(answers.path / ANSWERS_FILE, Answered))
    scored = metric.score(cell, rows, PartialRows(kept / answers.digest / file))
    credited = zip(rows, scored.details, scored.credits, strict=True)
    write_jsonl(folder / file, ({**row, **more, "credit": credit} for row, more, credit in credited))
    return {**summary(metric, scored), "file": file}


def summary(metric: Metric, scored: Scored) -> dict[str, Any]:
    """Value in percent, interval and counts, and what a table needs to show them."""
    interval = scored.interval
    return {
        "value": scored.value,
        "total": len(scored.known),
        "count": round(sum(scored.known)) if scored.counts else None,
        "interval": [interval.lo, interval.hi, interval.kind] if interval else None,
        "label": metric.label,
        "about": metric.about,
        "lower_is_better": metric.lower_is_better,
        "told": dict(scored.told),
    }
