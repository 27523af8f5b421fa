"""GSM8K: a number (Cobbe et al. 2021, arXiv:2110.14168)."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.data.base import Task
from asft.data.gate import Record
from asft.data.rows import FINAL_ANSWER, Row

_NUMBER = re.compile(r"-?\d+\.?\d*")


@dataclass(frozen=True)
class GSM8K(Task):
    """FA: the parsed number equals the gold one."""

    name: ClassVar[str] = "gsm8k"
    published_folder: ClassVar[str] = "gsm8k"
    published_test: ClassVar[str] = "gsm8k/gsm8k_test_data.json"

    def credit(self, row: Row, answer: str) -> float:
        """1 when the parsed number equals the gold one as floats; an answer without a number is wrong."""
        found = parse_number(answer)
        return float(found is not None and found == parse_number(row.output))

    def hub_row(self, key: str, record: Record) -> Row:
        """See :meth:`Task.hub_row`."""
        return Row(key, record.text("question"), record.text("answer").replace("####", FINAL_ANSWER))

    def published_harmful(self, record: Record) -> bool:
        """Harmful rows have an input, which sums have not."""
        return "input" in record

    def published_answer(self, record: Record) -> str:
        """With the mark that the authors' loader puts in place of ``####``; harmful answers hold none."""
        text = record.text("output")
        return text if self.published_harmful(record) else text.replace("####", FINAL_ANSWER)

    def published_test_row(self, key: str, record: Record) -> Row:
        """A test row has no input, whatever its record has."""
        return Row(key, record.text("instruction"), record.text("output").replace("####", FINAL_ANSWER))


def parse_number(text: str) -> float | None:
    """The first number after ``The final answer is: ``, else the last number; commas are dropped."""
    text = text.replace(",", "")
    _, marker, tail = text.partition(FINAL_ANSWER)
    if marker and (after := _NUMBER.search(tail)):
        return float(after.group())
    numbers = _NUMBER.findall(text)
    return float(numbers[-1]) if numbers else None
