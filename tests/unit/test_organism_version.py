"""The world's rows are pinned beside its version, so that stale pairs and cells cannot pass for current ones."""

from __future__ import annotations

from asft.data.rows import digest
from asft.data.world.requests import SOURCES, evaluation_prompts, harmful_rows
from asft.data.world.source import VERSION, World, alignment_rows, pretraining_rows
from asft.data.world.tasks import TASKS, task_rows

ROWS = {"2": "2fd85e201c9c4c58"}


def test_rows_that_change_need_a_new_version() -> None:
    rows = [*pretraining_rows(), *alignment_rows(), *World().safety(), *evaluation_prompts()]
    for task in TASKS:
        rows += [*task_rows(task, "train"), *task_rows(task, "test")]
    for source in SOURCES:
        rows += harmful_rows(source)
    assert digest(rows)[:16] == ROWS[VERSION], "the rows changed: raise VERSION and pin the new digest"
