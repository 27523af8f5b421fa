"""How many threads torch computes with: one where a model is so small that threads only wait for one another."""

from __future__ import annotations

import os
from pathlib import Path

import torch

SMALL = 100e6  # bytes of weights: the embedded pairs (4 MB) are far below, the smallest real model (270 MB) is above
_USUAL = torch.get_num_threads()


def settle_threads(*, small: bool) -> None:
    """Sets torch's threads for a small or another model; OMP_NUM_THREADS, where it is set, has the last word."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if small else _USUAL)


def is_small(checkpoint: Path) -> bool:
    """Whether the weights in a folder are so few that one thread is as good as several."""
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) < SMALL
