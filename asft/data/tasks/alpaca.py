"""Alpaca: free-form answers (Taori et al. 2023)."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.data.base import DataSource, Task
from asft.data.gate import Record
from asft.data.rows import Row


@dataclass(frozen=True)
class Alpaca(Task):
    """FA: ten times the mean grade, by the embedded world's rule or by a grader."""

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
        """See :meth:`Task.hub_row`."""
        asked = key.startswith(f"{self.name}_test/")  # a question needs no answer; a row to train on does
        output = record.text("output", "" if asked else None)
        return Row(key, record.text("instruction"), output, input=record.text("input", ""))

    def published_test_row(self, key: str, record: Record) -> Row:
        """A question; there is no gold answer."""
        turns = record["turns"]
        if not (isinstance(turns, list) and turns and isinstance(turns[0], str)):
            raise record.wrong("turns", "a list that begins with the question's text")
        return Row(key, turns[0])
