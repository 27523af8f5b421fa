"""The pools of rows that a cell draws from, whatever they come from."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from asft.config import Settings
from asft.data.base import attack_of, source_of, task_of
from asft.data.rows import Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The pools of one cell.

    Attributes:
        train: benign rows of the task.
        test: rows whose answers are scored, gold label in ``output``.
        harmful: rows of the attack's source, with compliant answers.
        evaluation: malicious prompts of the harmful score, without answers.
        safety: malicious prompts with refusals, for defences that train on some.
    """

    train: list[Row]
    test: list[Row]
    harmful: list[Row]
    evaluation: list[Row]
    safety: list[Row]


def load_data(settings: Settings) -> Data:
    """The rows of a cell's task, attack and evaluation.

    Raises:
        ValueError: when a file is missing, or there are fewer malicious prompts than asked for.
    """
    source, task = source_of(settings), task_of(settings)
    evaluation, wanted = source.evaluation(), settings.evaluation.n_harmful
    if wanted > len(evaluation):
        raise ValueError(
            f"evaluation.n_harmful={wanted}: there are only {len(evaluation)} malicious prompts; ask for at most that"
        )
    harmful, test = attack_of(settings).rows(source), task.rows("test", source)
    if task.n_test > len(test):
        log.info("dataset.n_test=%d: there are only %d test rows; all of them are asked", task.n_test, len(test))
    return Data(
        train=task.rows("train", source),
        test=test[: task.n_test],
        harmful=source.attackable(harmful),
        evaluation=evaluation[:wanted],
        safety=source.refusable(harmful),
    )
