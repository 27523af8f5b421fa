"""The world's rows are pinned beside its version, so that stale pairs and cells cannot pass for current ones."""

from __future__ import annotations

from asft.data.mixture import digest
from asft.data.world import world
from asft.data.world.version import VERSION

ROWS = {"2": "2fd85e201c9c4c58"}


def test_rows_that_change_need_a_new_version() -> None:
    rows = [*world.pretraining_rows(), *world.alignment_rows(), *world.safety_rows(), *world.evaluation_prompts()]
    for task in world.TASKS:
        rows += [*world.task_rows(task, "train"), *world.task_rows(task, "test")]
    for source in world.SOURCES:
        rows += world.harmful_rows(source)
    assert digest(rows)[:16] == ROWS[VERSION], "the rows changed: raise VERSION and pin the new digest"
