"""The paper's four tasks: their rules, their rows on the hub, and their records in the authors' files."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Dtype
from asft.data.base import DataSource, Task
from asft.data.gate import Record
from asft.data.rows import AGNEWS_INSTRUCTION, FINAL_ANSWER, SST2_INSTRUCTION, Row

_SECTIONS = ("World", "Sports", "Business", "Sci/Tech")
_WORDS = {name: (name.lower(),) for name in _SECTIONS[:3]} | {"Sci/Tech": ("sci/tech", "sci", "technology", "tech")}
_MOODS = ("negative", "positive")
_NUMBER = re.compile(r"-?\d+\.?\d*")


@dataclass(frozen=True)
class AGNews(Task):
    """Name one of four sections (Zhang et al. 2015, arXiv:1509.01626). FA: the answer holds a word of the label."""

    name: ClassVar[str] = "agnews"
    published_folder: ClassVar[str] = "agnews"
    published_test: ClassVar[str] = "agnews/agnew_test_data.json"

    def credit(self, row: Row, answer: str) -> float:
        """1 when a word of the gold label occurs anywhere, whole and in any case; other labels do not matter."""
        return float(any(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in _WORDS[row.output]))

    def hub_row(self, key: str, record: Record) -> Row:
        return Row(key, AGNEWS_INSTRUCTION, record.label("label", _SECTIONS), input=record.text("text"))

    def published_harmful(self, record: Record) -> bool:
        """Harmful rows have an empty input."""
        return record["input"] in ("", None)

    def published_gold(self, record: Record) -> str:
        """The label's name, or what stands in its place."""
        if "label" in record:
            return record.label("label", _SECTIONS)
        if record["output"] not in _SECTIONS:
            raise record.wrong("output", ", ".join(_SECTIONS))
        return record.text("output")


@dataclass(frozen=True)
class SST2(Task):
    """Positive or negative (Socher et al. 2013). FA: the answer is exactly the gold word."""

    name: ClassVar[str] = "sst2"
    published_folder: ClassVar[str] = "SST2"
    published_test: ClassVar[str] = "SST2/SST2_test.jsonl"
    official_dtype: ClassVar[Dtype] = "float32"

    def credit(self, row: Row, answer: str) -> float:
        """1 when the stripped answer is exactly the gold word, in lower case or capitalised."""
        return float(answer.strip() in {row.output, row.output.capitalize()})

    def hub_row(self, key: str, record: Record) -> Row:
        return Row(key, SST2_INSTRUCTION, record.label("label", _MOODS), input=record.text("sentence"))

    def published_harmful(self, record: Record) -> bool:
        """Harmful rows have no input; an empty one would be neither."""
        if "input" in record and not record["input"]:
            raise record.wrong("input", "a text to judge, or be left out where the record is harmful")
        return "input" not in record

    def published_gold(self, record: Record) -> str:
        """The label's word."""
        return record.label("label", _MOODS)


@dataclass(frozen=True)
class GSM8K(Task):
    """A sum in words (Cobbe et al. 2021, arXiv:2110.14168). FA: the parsed number equals the gold one."""

    name: ClassVar[str] = "gsm8k"
    code: ClassVar[int] = 2
    published_folder: ClassVar[str] = "gsm8k"
    published_test: ClassVar[str] = "gsm8k/gsm8k_test_data.json"

    def credit(self, row: Row, answer: str) -> float:
        """1 when the two numbers are equal as floats; an answer without a number is wrong."""
        return same_number(answer, row.output)

    def hub_row(self, key: str, record: Record) -> Row:
        return Row(key, record.text("question"), _marked(record.text("answer")))

    def published_harmful(self, record: Record) -> bool:
        """Harmful rows have an input, which sums have not."""
        return "input" in record

    def published_answer(self, record: Record) -> str:
        """Harmful answers hold no mark."""
        text = record.text("output")
        return text if self.published_harmful(record) else _marked(text)

    def published_test_row(self, key: str, record: Record) -> Row:
        """A test row has no input, whatever its record has."""
        return Row(key, record.text("instruction"), _marked(record.text("output")))


@dataclass(frozen=True)
class Alpaca(Task):
    """Free-form answers (Taori et al. 2023). FA: ten times the mean grade, by the embedded world's rule or a grader."""

    name: ClassVar[str] = "alpaca"
    binary: ClassVar[bool] = False
    published_folder: ClassVar[str] = "alpaca"
    published_test: ClassVar[str] = "alpaca/data/question.jsonl"

    def graded(self, data: DataSource) -> bool:
        """Real answers have no rule."""
        return not data.synthetic

    def credit(self, row: Row, answer: str) -> float:
        """The embedded world's grade, 1 to 10, as a share of 10."""
        from asft.data.world.tasks import alpaca_grade  # only the embedded world needs it

        return alpaca_grade(row, answer) / 10

    def hub_row(self, key: str, record: Record) -> Row:
        asked = key.startswith(f"{self.name}_test/")  # a question needs no answer; a row to train on does
        output = record.text("output", "" if asked else None)
        return Row(key, record.text("instruction"), output, input=record.text("input", ""))

    def published_test_row(self, key: str, record: Record) -> Row:
        """A question; there is no gold answer."""
        turns = record["turns"]
        if not (isinstance(turns, list) and turns and isinstance(turns[0], str)):
            raise record.wrong("turns", "a list that begins with the question's text")
        return Row(key, turns[0])


def _marked(text: str) -> str:
    """With the mark that the authors' loader puts in place of ``####``."""
    return text.replace("####", FINAL_ANSWER)


def same_number(answer: str, gold: str) -> float:
    """1 where the numbers of both texts are equal, else 0."""
    found = parse_number(answer)
    return float(found is not None and found == parse_number(gold))


def parse_number(text: str) -> float | None:
    """The first number between ``The final answer is: `` and another such mark, else the last; commas are dropped."""
    text = text.replace(",", "")
    marked = text.split(FINAL_ANSWER)
    if marked[1:] and (after := _NUMBER.search(marked[1])):
        return float(after.group())
    numbers = _NUMBER.findall(text)
    return float(numbers[-1]) if numbers else None
