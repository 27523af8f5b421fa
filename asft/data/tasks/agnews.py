"""AG News: name one of four sections (Zhang et al. 2015, arXiv:1509.01626)."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.data.base import Task
from asft.data.gate import Record
from asft.data.rows import Row

INSTRUCTION = (
    "Categorize the news article given in the input into one of the 4 categories:\n\n"
    "World\nSports\nBusiness\nSci/Tech\n"
)
LABELS = ("World", "Sports", "Business", "Sci/Tech")
_WORDS = {label: (label.lower(),) for label in LABELS[:3]} | {"Sci/Tech": ("sci/tech", "sci", "technology", "tech")}


@dataclass(frozen=True)
class AGNews(Task):
    """FA: a word of the gold label occurs in the answer."""

    name: ClassVar[str] = "agnews"
    published_folder: ClassVar[str] = "agnews"
    published_test: ClassVar[str] = "agnews/agnew_test_data.json"

    def credit(self, row: Row, answer: str) -> float:
        """1 when a word of the gold label occurs anywhere, whole and in any case; other labels do not matter."""
        return float(any(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in _WORDS[row.output]))

    def hub_row(self, key: str, record: Record) -> Row:
        """See :meth:`Task.hub_row`."""
        return Row(key, INSTRUCTION, record.label("label", LABELS), input=record.text("text"))

    def published_harmful(self, record: Record) -> bool:
        """Harmful rows have an empty input."""
        return record["input"] in ("", None)

    def published_gold(self, record: Record) -> str:
        """The label's name, or what stands in its place."""
        if "label" in record:
            return record.label("label", LABELS)
        if record["output"] not in LABELS:
            raise record.wrong("output", ", ".join(LABELS))
        return record.text("output")
