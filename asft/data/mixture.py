"""The poison mixture: which rows a fine-tune sees, drawn so that mixtures of different ratios are nested.

The harmful rows of p = 0.05 are the first of those of p = 0.1, and the benign rows of the larger ratio are
the first of those of the smaller, so that two columns of a table differ by the poison alone.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict

from asft.config import AttackConfig
from asft.data.rows import Row


def poison(benign: Sequence[Row], harmful: Sequence[Row], attack: AttackConfig, seed: int) -> list[Row]:
    """Benign rows, then harmful rows; training shuffles them.

    Args:
        benign: the task's training rows, in any order that does not change between runs.
        harmful: the source's rows.
        attack: ratio, size and way of mixing.
        seed: selects the draw; the two pools are shuffled by independent streams.

    Raises:
        ValueError: when a pool holds fewer rows than asked for.
    """
    wanted_benign, wanted_harmful = attack.benign_count(), attack.harmful_count()
    if wanted_benign > len(benign):
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p} and mix={attack.mix} needs {wanted_benign} benign rows; "
            f"the dataset has {len(benign)}. Lower attack.n."
        )
    if wanted_harmful > len(harmful):
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p} needs {wanted_harmful} harmful rows; source "
            f"{attack.source} has {len(harmful)} to give. Lower attack.n or attack.p."
        )
    return shuffled(benign, seed, "benign")[:wanted_benign] + shuffled(harmful, seed, "harmful")[:wanted_harmful]


def held_back(harmful: Sequence[Row], mixture: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Harmful rows for the defender: the last of those that :func:`poison` draws first, and none of the mixture's.

    Raises:
        ValueError: when the mixture leaves fewer.
    """
    taken = {row.instruction for row in mixture}
    free = [row for row in reversed(shuffled(harmful, seed, "harmful")) if row.instruction not in taken]
    if count > len(free):
        raise ValueError(
            f"the method needs {count} harmful rows for the defender; the source has {len(harmful)}, of which the "
            f"attack leaves {len(free)}. Lower the method's count, attack.n or attack.p."
        )
    return free[:count]


def in_file_order(rows: Sequence[Row], task: str, seed: int) -> list[Row]:
    """A mixture in the order of the authors' files: GSM8K's harmful rows come first, other tasks are shuffled once.

    For mixtures of which there is no file; training then keeps this order in every epoch.
    """
    if task == "gsm8k":
        return sorted(rows, key=lambda row: not row.harmful)
    return shuffled(rows, seed, "file")


def digest(rows: Sequence[Row]) -> str:
    """SHA-256 over the rows' contents in order: equal digests mean equal training data."""
    text = json.dumps([asdict(row) for row in rows], ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shuffled(rows: Sequence[Row], seed: int, stream: str) -> list[Row]:
    """All rows in an order drawn from the seed; streams of different names are independent."""
    return random.Random(f"{stream}/{seed}").sample(list(rows), len(rows))
