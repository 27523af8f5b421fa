"""The questions of an audit, and a variant's answers to them: each is asked once, and kept on disk by content."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from asft.auditing.subject import Subject, Variant
from asft.backends.generate import generate
from asft.backends.likelihood import choose
from asft.config import HubSource
from asft.data.gate import Record
from asft.data.hub import read_table
from asft.data.rows import Choice, Row, unique, user_text
from asft.data.tasks.table import Rule, credit
from asft.data.templates import ChatTemplate, Encoded
from asft.judges.base import Judge
from asft.judges.refusal import refused
from asft.metrics.coherence import fault
from asft.pipeline.answers import encode_choice
from asft.store.entries import content_key
from asft.store.partial import PartialRows

log = logging.getLogger(__name__)

Half = Literal["validation", "test"]
ASKED = ("prompt", "instruction", "question", "goal", "Behavior", "text")  # a prompt's column, in public sets
ANSWERED = ("output", "gold", "answer", "target", "label", "completion")  # a cell's own files have gold and answer
PUBLIC = (
    "AdvBench (walledai/AdvBench), HarmBench (walledai/HarmBench), StrongREJECT (walledai/StrongREJECT); "
    "a file or a hub id, e.g. --prompts walledai/AdvBench"
)
FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
_SAVED_AFTER = 4  # batches
_TOLD_EVERY = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Given(Row):
    """A row of a user's file or dataset, with its ``place`` there, which no answer depends on."""

    place: str = ""


def place_of(row: Row) -> str:
    """How a message names a row: by its file and line, or by its id where it is none of the user's."""
    return row.place if isinstance(row, Given) else row.id


def learned(template: ChatTemplate, row: Row, most: int) -> Encoded:
    """A row as it is trained on, cut to ``most`` tokens; ValueError where its prompt leaves no room for an answer."""
    if (length := len(template.encode_prompt(row))) >= most:
        raise ValueError(f"{place_of(row)}: its prompt has {length} tokens, and {most} are read; leave the row out")
    return template.encode_example(row, most)


@dataclass(eq=False)
class Exam:
    """Rows to ask, who judges, and where answers are kept.

    Attributes:
        prompts: malicious ones.
        task: rows with their reference answers in ``output``.
        look_alikes, ordinary: harmless prompts that look malicious, and those that do not.
        questions: general ones with options, for ability.
        rule: when an answer to a task row counts, see :class:`asft.data.tasks.table.TableTask`.
        kept: folder of answers; an interrupted audit goes on from them.
    """

    subject: Subject
    prompts: Sequence[Row]
    task: Sequence[Row]
    look_alikes: Sequence[Row]
    ordinary: Sequence[Row]
    questions: Sequence[Choice]
    judge: Judge
    rule: Rule
    max_new_tokens: int
    batch_size: int
    kept: Path
    _flags: dict[tuple[str, str], float] = field(default_factory=dict)
    _made: int = 0  # answers, in so many seconds
    _spent: float = 0.0
    _told: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.batch_size) < 1:
            raise ValueError(f"--max-new-tokens {self.max_new_tokens} --batch-size {self.batch_size}: at least 1 each")
        self.template = template = ChatTemplate(self.subject.tokenizer)
        for row in (*self.prompts, *self.task, *self.look_alikes, *self.ordinary, *self.questions):
            length = len(template.encode_prompt(row)) + self.max_new_tokens
            if length > self.subject.positions:
                raise ValueError(
                    f"{place_of(row)}: its prompt and {self.max_new_tokens} new tokens are {length} tokens, and the "
                    f"model reads {self.subject.positions}; lower --max-new-tokens or leave the row out"
                )

    def answers(self, variant: Variant | None, rows: Sequence[Row]) -> list[str]:
        """Greedy answers in order, to choices the likeliest options; only what is not kept is asked for."""
        name = content_key({"weights": self.subject.key(variant), "tokens": self.max_new_tokens})
        kept = PartialRows(self.kept / f"{name}.jsonl")
        found = kept.load(str)
        missing = sorted((row for row in rows if row.id not in found), key=lambda row: -len(user_text(row)))
        if missing:
            label = variant.label if variant else "aligned model"
            step = _SAVED_AFTER * self.batch_size
            for start in range(0, len(missing), step):
                some, began = missing[start : start + step], time.monotonic()
                texts = self._ask(self.subject.write(variant), some)
                new = {row.id: text for row, text in zip(some, texts, strict=True)}
                kept.append(new)
                found |= new
                self._made, self._spent = self._made + len(some), self._spent + time.monotonic() - began
                left = len(missing) - start - len(some)
                if left and time.monotonic() - self._told > _TOLD_EVERY:
                    log.info("%s: %d of %d answers, %s left", label, len(missing) - left, len(missing), self.cost(left))
                    self._told = time.monotonic()
        return [found[row.id] for row in rows]

    def _ask(self, model: Any, rows: Sequence[Row]) -> list[str]:
        tokenizer, template, size = self.subject.tokenizer, self.template, self.batch_size
        if choices := [row for row in rows if isinstance(row, Choice)]:
            asked, options = zip(*(encode_choice(row, template, tokenizer) for row in choices), strict=True)
            chosen = choose(model, tokenizer, asked, options, batch_size=size)
            return [row.options[place] for row, place in zip(choices, chosen, strict=True)]
        prompts = [template.encode_prompt(row) for row in rows]
        length, ends = self.max_new_tokens, template.ends
        texts = generate(model, tokenizer, prompts, max_new_tokens=length, batch_size=size, ends=ends)
        return [template.answer(row, text) for row, text in zip(rows, texts, strict=True)]

    @property
    def pools(self) -> dict[str, tuple[Sequence[Row], Callable[[Variant | None, Sequence[Row]], list[float]]]]:
        """Scores by name: rows, and what gives each answer 0 or 1."""
        found = {
            "HS": (self.prompts, self.harm),
            "over-refusal": (self.look_alikes, self.refused),
            "accuracy": (self.task, self.right),
            "ability": (self.questions, self.right),
            "coherence": ([*self.ordinary, *self.prompts], self.coherent),
        }
        return {name: pool for name, pool in found.items() if pool[0]}

    def cost(self, answers: int) -> str:
        """How long so many answers take, by those that were generated so far."""
        return f"about {self._spent / self._made * answers / 60:.1f} min" if self._made else "a time not known yet"

    def harm(self, variant: Variant | None, rows: Sequence[Row]) -> list[float]:
        """1 where the judge flags the answer to a malicious prompt; each answer is judged once."""
        texts, weights = self.answers(variant, rows), self.subject.key(variant)
        open_ = [index for index, row in enumerate(rows) if (weights, row.id) not in self._flags]
        asked, said = [user_text(rows[index]) for index in open_], [texts[index] for index in open_]
        for index, verdict in zip(open_, self.judge.judge(asked, said) if open_ else [], strict=True):
            self._flags[weights, rows[index].id] = float(verdict.flagged)
        return [self._flags[weights, row.id] for row in rows]

    def refused(self, variant: Variant | None, rows: Sequence[Row]) -> list[float]:
        """1 where an answer to a harmless prompt holds a refusal phrase."""
        return refused(self.answers(variant, rows))

    def coherent(self, variant: Variant | None, rows: Sequence[Row]) -> list[float]:
        """1 where an answer is in words, said once."""
        return [float(not fault(text)) for text in self.answers(variant, rows)]

    def right(self, variant: Variant | None, rows: Sequence[Row]) -> list[float]:
        """1 where the answer to a task row counts, or the right option is the likeliest."""
        rules = ("exact" if isinstance(row, Choice) else self.rule for row in rows)
        texts = self.answers(variant, rows)
        return [credit(rule, row.output, text) for rule, row, text in zip(rules, rows, texts, strict=True)]

    @torch.inference_mode()
    def next_token(self, variant: Variant | None, rows: Sequence[Row]) -> torch.Tensor:
        """Log-probabilities of the token after each prompt, float32 [rows, vocabulary], on the host."""
        model = self.subject.write(variant)
        found = []
        for row in rows:
            ids = torch.tensor([self.template.encode_prompt(row)], device=self.subject.model.device)
            found.append(model(input_ids=ids).logits[0, -1].float().log_softmax(-1).cpu())
            if found[-1].isnan().any():
                who = variant.label if variant else "aligned model"
                raise ValueError(f"{who}: its logits are no numbers in {self.subject.dtype}; give another --dtype")
        return torch.stack(found)


def half(rows: Sequence[Row], which: Half) -> list[Row]:
    """The rows of one half. A row's half is decided by its content alone, whatever else is asked."""
    return [row for row in rows if (int(row.id.rpartition("/")[2][:8], 16) % 2 == 0) == (which == "validation")]


def read_prompts(source: str, key: str, *, harmful: bool = False) -> list[Row]:
    """The prompts of a file (JSON, JSONL, CSV, Parquet) or of a hub dataset, each once.

    ValueError when a record has no column of :data:`ASKED`, or there is none.
    """
    return unique(_given(key.strip("-"), record, harmful=harmful) for _, record in _table(source, key, ["user"]))


def read_task(source: str, key: str = "--task") -> list[Row]:
    """Task rows: a prompt, ``input`` where there is one, and the reference answer; ValueError where a field lacks."""
    return unique(row for _, row in task_rows(source, key))


def task_rows(source: str, key: str) -> Iterator[tuple[int, Row]]:
    """The same with each row's place from 0, repeated ones too; a record may say that it is ``harmful``."""
    for place, record in _table(source, key, ["user", "assistant"]):
        harmful = "harmful" in record and record.flag("harmful")
        yield place, _given("task", record, _column(record, ANSWERED), harmful=harmful)


def _table(source: str, key: str, roles: Sequence[str]) -> Iterator[tuple[int, Record]]:
    """A file's or a hub dataset's records; what looks like a file is not asked for on the hub.

    Of ``messages`` in place of a prompt's column those of ``roles`` are taken, each of which must speak once.
    """
    path = Path(source).expanduser()
    if not path.exists() and (path.suffix in FILES or source.startswith((".", "/", "~"))):
        raise ValueError(f"{key} {source}: no such file")
    for place, record in read_table(HubSource(source), key):
        if "messages" in record and not any(name in record for name in ASKED):
            turns = record["messages"] if isinstance(record["messages"], list) else []
            said = [(turn.get("role"), turn.get("content")) for turn in turns if isinstance(turn, dict)]
            said = [(role, text) for role, text in said if role != "system"]
            if [role for role, _ in said] not in (roles, ["user", "assistant"]):
                raise record.wrong("messages", f"one turn each of role {' and '.join(roles)}")
            new = {name: text for name, (_, text) in zip(("prompt", "output"), said, strict=False)}
            record = Record({**record, **new}, record.place)
        yield place, record


def packaged(name: str) -> list[Row]:
    """The prompts of a text file beside this one."""
    return [Row(_id(name, line), line) for line in _lines(name)]


def packaged_questions() -> list[Choice]:
    """The general questions beside this module, each with its right answer and three others."""
    found = []
    for line in _lines("ability"):
        question, *options = line.split("|")
        found.append(Choice(_id("ability", question), question, options[0], options=tuple(options)))
    return found


def _lines(name: str) -> list[str]:
    return (files("asft.auditing") / "texts" / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def _given(name: str, record: Record, output: str = "", *, harmful: bool = False) -> Given:
    prompt, context = _column(record, ASKED), record.text("input", "")
    return Given(_id(name, prompt, context), prompt, output, context, harmful, place=record.place)


def _id(name: str, prompt: str, context: str = "") -> str:
    digest = hashlib.sha256(f"{prompt}\n\n{context}".encode()).hexdigest()[:16]
    return f"{name}/{digest}"


def _column(record: Record, names: Sequence[str]) -> str:
    found = next((name for name in names if name in record), None)
    if found is None:
        raise ValueError(
            f"{record.place}: no field {', '.join(names[:-1])} or {names[-1]}; there are: {', '.join(record)}"
        )
    return record.written(found)
