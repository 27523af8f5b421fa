"""``data=hub``: rows from datasets of the Hugging Face hub, or from local copies of them.

Which dataset, revision, split and columns is said in ``conf/data/hub.yaml``; the record schemas are in docs/data.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import HubSource
from asft.data.base import DataSource, Part, Task
from asft.data.rows import Row, unique
from asft.data.table import read_table, table_identity


@dataclass(frozen=True)
class Hub(DataSource):
    """Attributes:
    sources: a table for each pool: ``<task>_train``, ``<task>_test``, ``evaluation``, ``safety``, each harmful source.
    """

    name: ClassVar[str] = "hub"
    sources: dict[str, HubSource] = Field(default_factory=dict)

    def task_rows(self, task: Task, part: Part) -> list[Row]:
        """See :meth:`DataSource.task_rows`."""
        name = f"{task.name}_{part}"
        table = read_table(self.source(name), f"data.sources.{name}")
        return unique(task.hub_row(f"{name}/{index}", record) for index, record in table)

    def harmful(self, source: str) -> list[Row]:
        """See :meth:`DataSource.harmful`."""
        return self._prompts(source)

    def evaluation(self) -> list[Row]:
        """All prompts, in the dataset's order; one may occur twice."""
        found = self.source("evaluation")
        table = read_table(found, "data.sources.evaluation")
        return [Row(f"evaluation/{index}", record.text(found.prompt), harmful=True) for index, record in table]

    def safety(self) -> list[Row]:
        """See :meth:`DataSource.safety`."""
        return self._prompts("safety")

    def task_identity(self, task: Task, part: Part) -> dict[str, Any]:
        """The table's settings."""
        return table_identity(self.source(f"{task.name}_{part}"))

    def evaluation_identity(self) -> dict[str, Any]:
        """The table's settings."""
        return table_identity(self.source("evaluation"))

    def pools_identity(self, source: str) -> dict[str, Any]:
        """The tables' settings."""
        return {name: table_identity(self.source(name)) for name in sorted({source, "safety", "evaluation"} - {"none"})}

    def source(self, name: str) -> HubSource:
        """Where a pool comes from.

        Raises:
            ValueError: when ``data.sources`` does not name it, or names no column with answers to train on.
        """
        if name not in self.sources:
            raise ValueError(f"data.sources.{name}: is missing; choose data=hub, which names every source")
        found = self.sources[name]
        trained = name != "evaluation" and not name.endswith(("_train", "_test"))
        if trained and found.answer is None:
            raise ValueError(
                f"data.sources.{name}.answer=null: {found.path} has prompts and no answers to train on; point "
                f"data.sources.{name}.path at a copy that has them and name their column in data.sources.{name}.answer"
            )
        return found

    def _prompts(self, name: str) -> list[Row]:
        found = self.source(name)
        assert found.answer is not None, "source() sees to it"
        table = read_table(found, f"data.sources.{name}")
        return unique(
            Row(f"{name}/{index}", record.text(found.prompt), record.text(found.answer), harmful=True)
            for index, record in table
        )
