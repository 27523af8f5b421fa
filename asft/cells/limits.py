"""How many rows the data hold, and whether a cell asks for more: checked before anything trains.

The authors' shipped files are small (docs/data.md lists the numbers), so many settings of the paper's tables need
further files of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asft.data.base import Attack, Task, attack_of, task_of
from asft.data.files import Files

if TYPE_CHECKING:
    from asft.cells.cell import Cell


@dataclass(frozen=True)
class Sizes:
    """Rows of each pool of a data folder, for one task."""

    benign: int
    harmful: int
    safety: int
    evaluation: int


_counted: dict[str, Sizes] = {}


def check_data(cell: Cell, files: Files) -> None:
    """Compares what a cell draws with what its data folder holds.

    Raises:
        ValueError: naming the key that asks for more, how many rows there are, and what to do.
    """
    sizes = pool_sizes(files, task_of(cell), attack_of(cell))
    if cell.evaluation.n_harmful > sizes.evaluation:
        raise ValueError(
            f"evaluation.n_harmful={cell.evaluation.n_harmful}: the folder holds {sizes.evaluation} malicious prompts; "
            "ask for at most that"
        )
    _check_safety_tuned(cell, sizes)
    if cell.method.trains:
        _check_rows(cell, files)
    for required in cell.required().values():
        _check_rows(required, files)


def pool_sizes(files: Files, task: Task, attack: Attack) -> Sizes:
    """The pools that a cell draws from, counted once as long as no file of the folder changes."""
    root = files.folder
    there = sorted([*(root / "ft_datasets").rglob("*.json"), *(root / "evaluation").rglob("*.json*")])
    place = repr((root, task, attack, [(path, path.stat().st_mtime_ns) for path in there]))
    if place not in _counted:
        harmful = attack.rows(files)  # its message says which sources there are
        task.rows("test", files)  # a missing test file is told now, not after training
        _counted[place] = Sizes(
            len(task.rows("train", files)), len(files.attackable(harmful)), len(files.safety()), len(files.evaluation())
        )
    return _counted[place]


def _check_rows(cell: Cell, files: Files) -> None:
    attack, task = attack_of(cell), task_of(cell)
    sizes = pool_sizes(files, task, attack)
    needed = cell.method.safety_rows(cell)
    if needed > sizes.safety:
        raise ValueError(
            f"method={cell.method.name}: needs {needed} safety rows with attack.n={attack.n}; the folder holds "
            f"{sizes.safety} (the malicious prompts of agnews_1k_p_0.2.json that no other file holds). "
            "Lower the method's own count (method.share, method.safety) or attack.n."
        )
    if cell.protocol.name == "official" and files.mixture_rows(task, attack) is not None:
        return
    if attack.benign_count() > sizes.benign:
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p:g} and attack.mix={attack.mix} needs {attack.benign_count()} "
            f"benign rows; the folder holds {sizes.benign} of dataset={cell.dataset.name}. Lower attack.n, or put a "
            f"larger file <task>_<n>k_p_0.json beside those in {files.folder}/ft_datasets."
        )
    defender = cell.method.defender_rows(cell)
    if attack.harmful_count() + defender > sizes.harmful:
        kept = f" and method={cell.method.name} {defender} others" if defender else ""
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p:g} needs {attack.harmful_count()} harmful rows{kept}; the "
            f"folder holds {sizes.harmful} besides the safety rows. Lower attack.n or attack.p, or add files with more."
        )


def _check_safety_tuned(cell: Cell, sizes: Sizes) -> None:
    from asft.config import SafetyTunedModel

    model = cell.model
    if isinstance(model, SafetyTunedModel) and model.refusals > sizes.safety:
        raise ValueError(
            f"model.refusals={model.refusals}: the folder holds {sizes.safety} safety rows; set it to at most that"
        )
