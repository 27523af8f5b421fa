"""SST-2: positive or negative (Socher et al. 2013)."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Dtype
from asft.data.base import Task
from asft.data.gate import Record
from asft.data.rows import Row

INSTRUCTION = "Analyze the sentiment of the input, and respond only positive or negative"
LABELS = ("negative", "positive")


@dataclass(frozen=True)
class SST2(Task):
    """FA: the answer is exactly the gold word."""

    name: ClassVar[str] = "sst2"
    published_folder: ClassVar[str] = "SST2"
    published_test: ClassVar[str] = "SST2/SST2_test.jsonl"
    official_dtype: ClassVar[Dtype] = "float32"

    def credit(self, row: Row, answer: str) -> float:
        """1 when the stripped answer is exactly the gold word, in lower case or capitalised."""
        return float(answer.strip() in {row.output, row.output.capitalize()})

    def hub_row(self, key: str, record: Record) -> Row:
        """See :meth:`Task.hub_row`."""
        return Row(key, INSTRUCTION, record.label("label", LABELS), input=record.text("sentence"))

    def published_harmful(self, record: Record) -> bool:
        """Harmful rows have no input; an empty one would be neither."""
        if "input" in record and not record["input"]:
            raise record.wrong("input", "a text to judge, or be left out where the record is harmful")
        return "input" not in record

    def published_gold(self, record: Record) -> str:
        """The label's word."""
        return record.label("label", LABELS)
