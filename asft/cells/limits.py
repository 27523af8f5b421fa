"""How many rows the data hold, and whether a cell asks for more: checked before anything trains.

The authors' shipped files are small (docs/data.md lists the numbers), so many settings of the paper's tables need
further files of theirs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asft.data import official

if TYPE_CHECKING:
    from asft.cells.cell import Cell


@dataclass(frozen=True)
class Sizes:
    """Rows of each pool of a data folder, for one task."""

    benign: int
    harmful: int
    safety: int
    evaluation: int


def check_data(cell: Cell) -> None:
    """Compares what a cell draws with what its data folder holds.

    Raises:
        ValueError: naming the key that asks for more, how many rows there are, and what to do.
    """
    root = official.data_root(str(cell.data.root))
    if cell.attack.source not in {"none", "harmful"}:
        official.harmful_rows(root, cell.attack.source)  # its message says which sources there are
    sizes = pool_sizes(root, cell.dataset.name)
    if cell.evaluation.n_harmful > sizes.evaluation:
        raise ValueError(
            f"evaluation.n_harmful={cell.evaluation.n_harmful}: the folder holds {sizes.evaluation} malicious prompts; "
            "ask for at most that"
        )
    _check_safety_tuned(cell, sizes)
    if cell.method.trains:
        _check_rows(cell, root, sizes)
    for required in cell.required().values():
        _check_rows(required, root, sizes)


def pool_sizes(root: Path, task: str) -> Sizes:
    """The folder's pools, counted once as long as no file changes."""
    files = sorted([*(root / "ft_datasets").rglob("*.json"), *(root / "evaluation").rglob("*.json*")])
    return _count(root, task, tuple((str(path), path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=32)
def _count(root: Path, task: str, _stamp: tuple[tuple[str, int], ...]) -> Sizes:
    official.test_rows(root, task)  # a missing test file is told now, not after training
    safety = official.alignment_prompts(root)
    held_out = {row.instruction for row in safety}
    harmful = [row for row in official.harmful_rows(root, "harmful") if row.instruction not in held_out]
    benign, evaluation = official.train_rows(root, task), official.evaluation_prompts(root)
    return Sizes(len(benign), len(harmful), len(safety), len(evaluation))


def _check_rows(cell: Cell, root: Path, sizes: Sizes) -> None:
    attack = cell.attack
    needed = cell.method.safety_rows(cell)
    if needed > sizes.safety:
        raise ValueError(
            f"method={cell.method.name}: needs {needed} safety rows with attack.n={attack.n}; the folder holds "
            f"{sizes.safety} (the malicious prompts of agnews_1k_p_0.2.json that no other file holds). "
            "Lower the method's own count (method.share, method.safety) or attack.n."
        )
    if cell.protocol.name == "official" and attack.benign_count() > 0:
        official.mixture_rows(root, cell.dataset.name, attack)
        return
    if attack.benign_count() > sizes.benign:
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p:g} and attack.mix={attack.mix} needs {attack.benign_count()} "
            f"benign rows; the folder holds {sizes.benign} of dataset={cell.dataset.name}. Lower attack.n, or put a "
            f"larger file <task>_<n>k_p_0.json beside those in {root}/ft_datasets."
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
