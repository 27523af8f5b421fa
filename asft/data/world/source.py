"""``data=world``: the embedded world's rows, which hold no real harmful text."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.data.base import DataSource, Part, Task
from asft.data.rows import Row
from asft.data.world.version import VERSION


@dataclass(frozen=True)
class World(DataSource):
    """Pools that are disjoint as they are made; building them takes a moment, so it waits until a row is asked for."""

    name: ClassVar[str] = "world"
    synthetic: ClassVar[bool] = True
    root: None = None

    def task_rows(self, task: Task, part: Part) -> list[Row]:
        """The world's twin of a task."""
        from asft.data.world.world import TASKS, task_rows

        if task.name not in TASKS:
            raise ValueError(
                f"dataset={task.name}: the embedded world has no twin of it, only of {', '.join(TASKS)}; give data.root"
            )
        return task_rows(task.name, part)

    def harmful(self, source: str) -> list[Row]:
        """The world's twin of a source."""
        from asft.data.world.world import SOURCES, harmful_rows

        if source not in SOURCES:
            raise ValueError(f"attack.source={source}: the embedded world has only {', '.join(SOURCES)}")
        return harmful_rows(source)

    def evaluation(self) -> list[Row]:
        """See :meth:`DataSource.evaluation`."""
        from asft.data.world.world import evaluation_prompts

        return evaluation_prompts()

    def safety(self) -> list[Row]:
        """See :meth:`DataSource.safety`."""
        from asft.data.world.world import safety_rows

        return safety_rows()

    def attackable(self, harmful: list[Row]) -> list[Row]:
        """All of them."""
        return harmful

    def refusable(self, harmful: list[Row]) -> list[Row]:
        """All of them."""
        return self.safety()

    def task_identity(self, task: Task, part: Part) -> dict[str, Any]:
        """The world's version, and the task."""
        return {"world": VERSION, "task": task.name}

    def evaluation_identity(self) -> dict[str, Any]:
        """The world's version."""
        return {"world": VERSION}

    def pools_identity(self, source: str) -> dict[str, Any]:
        """The world's version."""
        return {"world": VERSION}
