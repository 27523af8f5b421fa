"""A task that is one YAML: a table of rows, a prompt and a target made of its columns, and a rule."""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import HubSource, Name
from asft.data.base import DataSource, Part, Task
from asft.data.gate import Record
from asft.data.hub import read_table, table_identity
from asft.data.rows import Row, unique
from asft.data.tasks.published import same_number

Rule = Literal["exact", "word", "number"]


def credit(rule: Rule, gold: str, answer: str) -> float:
    """1 where an answer counts by the rule, else 0; see :class:`TableTask`."""
    if rule == "exact":
        return float(answer.strip() == gold.strip())
    if rule == "number":
        return same_number(answer, gold)
    return float(bool(re.search(rf"(?<!\w){re.escape(gold.strip())}(?!\w)", answer, re.IGNORECASE)))


@dataclass(frozen=True)
class TableTask(Task):
    """Rows from any file, folder or dataset of the hub, whatever ``data=`` says.

    Attributes:
        task: ``name`` in YAML.
        train, test: where the rows are.
        prompt, target: templates with ``{column}``; the target is trained on, and is a test row's gold answer.
        input: further context after a blank line, a template as well.
        labels: names of the classes: a column of the target holds one of them, or its number from 0.
        rule: ``exact`` (the stripped answer is the target), ``word`` (the target occurs as whole words, in any
            case), ``number`` (the last number, or the one after "The final answer is: ", equals the target's).
    """

    code: ClassVar[int] = 2
    name = property(lambda self: self.task)  # each YAML is a task of its own
    task: Annotated[Name, Field(alias="name")]
    train: HubSource
    test: HubSource
    prompt: str
    target: str
    input: str = ""
    labels: tuple[str, ...] = ()
    rule: Rule = "word"
    practical: ClassVar[frozenset[str]] = frozenset({"task"})

    def rows(self, part: Part, data: DataSource) -> list[Row]:
        table = read_table(self.train if part == "train" else self.test, f"dataset.{part}")
        return unique(self._row(f"{self.task}/{part}/{index}", record) for index, record in table)

    def identity(self, part: Part, data: DataSource) -> dict[str, Any]:
        text = {"prompt": self.prompt, "target": self.target, "input": self.input, "labels": list(self.labels)}
        return {"table": table_identity(self.train if part == "train" else self.test), **text}

    def credit(self, row: Row, answer: str) -> float:
        """1 or 0, by ``rule``."""
        return credit(self.rule, row.output, answer)

    def _row(self, key: str, record: Record) -> Row:
        prompt, target, context = (self._filled(name, record) for name in ("prompt", "target", "input"))
        return Row(key, prompt, target, input=context)

    def _filled(self, name: str, record: Record) -> str:
        template: str = getattr(self, name)
        try:
            columns = [column for _, column, _, _ in Formatter().parse(template) if column is not None]
        except ValueError as error:
            raise ValueError(f"dataset.{name}={template!r}: {error}; a brace of the text's own is doubled") from None
        if (
            name == "input"
            and [template] == [f"{{{column}}}" for column in columns]
            and record[columns[0]] in (None, "")
        ):
            return ""
        return template.format_map({column: self._value(column, record, name) for column in columns})

    def _value(self, column: str, record: Record, name: str) -> str:
        """A column as text; the class's name where a target holds a class."""
        if self.labels and f"{{{column}}}" in self.target:
            return record.label(column, self.labels)
        if name == "target" and self.rule == "number" and type(record[column]) in (int, float):
            return record.written(column)
        return record.filled(column)
