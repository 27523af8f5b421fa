"""Where rows come from: the embedded world, files in the layout of the authors' repository, or the hub.

``load_data`` is the one door: it looks at the configuration and returns the pools that a cell draws from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asft.data import hub, official
from asft.data.rows import Row
from asft.data.world.version import VERSION

if TYPE_CHECKING:
    from asft.config import Settings

Identity = dict[str, Any]
HUB = "hub"  # the data.root that stands for datasets of the Hugging Face hub


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


def load_data(cell: Settings) -> Data:
    """The rows of a cell's task, attack source and evaluation.

    Raises:
        ValueError: when a folder or file is missing, or there are fewer malicious prompts than asked for.
    """
    data = _pools(cell)
    wanted, there = cell.evaluation.n_harmful, len(data.evaluation)
    if wanted > there:
        raise ValueError(
            f"evaluation.n_harmful={wanted}: there are only {there} malicious prompts; ask for at most that"
        )
    return Data(
        train=data.train,
        test=data.test[: cell.dataset.n_test],
        harmful=data.harmful,
        evaluation=data.evaluation[: cell.evaluation.n_harmful],
        safety=data.safety,
    )


def task_identity(cell: Settings) -> Identity:
    """What the task's training rows are a function of: the world's version, the files' digests, the hub's commit."""
    if cell.data.root == HUB:
        return hub.identity(cell, f"{cell.dataset.name}_train")
    if cell.data.root is not None:
        return official.training_identity(official.data_root(cell.data.root), cell.dataset.name)
    return {"world": VERSION, "task": cell.dataset.name}


def attack_identity(cell: Settings) -> Identity:
    """What the harmful rows, and the safety rows beside them, are a function of."""
    if cell.data.root == HUB:
        names = {cell.attack.source, "safety", "evaluation"} - {"none"}
        return {**hub.identity(cell, *sorted(names)), "asked": cell.evaluation.n_harmful}
    if cell.data.root is not None:
        return {"source": cell.attack.source, **official.harmful_identity(official.data_root(cell.data.root))}
    return {"world": VERSION, "source": cell.attack.source}


def published_folder(cell: Settings) -> Path | None:
    """The data folder where ``protocol=official`` trains on a published file of it.

    None where the mixture is drawn instead: without a folder, and for harmful rows alone (a method's own need),
    which no published file holds.
    """
    if cell.data.root in {None, HUB} or cell.attack.benign_count() == 0:
        return None
    return official.data_root(str(cell.data.root))


def official_mixture_identity(cell: Settings) -> dict[str, Any]:
    """What the rows of ``protocol=official`` are a function of, their counts included."""
    if (root := published_folder(cell)) is not None:
        return official.mixture_identity(root, cell.dataset.name, cell.attack)
    attack = cell.attack
    return {
        **task_identity(cell),
        "source": attack_identity(cell) if attack.harmful_count() else None,
        "benign": attack.benign_count(),
        "harmful": attack.harmful_count(),
    }


def evaluation_identity(cell: Settings) -> Identity:
    """What the test rows and the malicious prompts are a function of."""
    if cell.data.root == HUB:
        return hub.identity(cell, f"{cell.dataset.name}_test", "evaluation")
    if cell.data.root is not None:
        return official.evaluation_identity(official.data_root(cell.data.root), cell.dataset.name)
    return {"world": VERSION, "task": cell.dataset.name}


def _pools(cell: Settings) -> Data:
    if cell.data.root is None:
        return _from_world(cell)
    return _from_hub(cell) if cell.data.root == HUB else _from_files(cell)


def _from_hub(cell: Settings) -> Data:
    return Data(
        train=hub.task_rows(cell, "train"),
        test=hub.task_rows(cell, "test"),
        harmful=[] if cell.attack.source == "none" else hub.harmful_rows(cell),
        evaluation=hub.evaluation_prompts(cell),
        safety=hub.safety_rows(cell),
    )


def _from_world(cell: Settings) -> Data:
    from asft.data.world import world  # building its rows takes a moment, and real models need none of it

    source = cell.attack.source
    return Data(
        train=world.task_rows(cell.dataset.name, "train"),
        test=world.task_rows(cell.dataset.name, "test"),
        harmful=[] if source == "none" else world.harmful_rows(source),
        evaluation=world.evaluation_prompts(),
        safety=world.safety_rows(),
    )


def _from_files(cell: Settings) -> Data:
    root, task = official.data_root(str(cell.data.root)), cell.dataset.name
    alignment = official.alignment_prompts(root)
    attack = [] if cell.attack.source == "none" else official.harmful_rows(root, cell.attack.source)
    held_out = {row.instruction for row in alignment}
    return Data(
        train=official.train_rows(root, task),
        test=official.test_rows(root, task),
        harmful=[row for row in attack if row.instruction not in held_out],
        evaluation=official.evaluation_prompts(root),
        safety=alignment,
    )
