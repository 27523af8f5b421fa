"""What tests import of one another: places, the types of shared fixtures, a mark, and what a cell has left."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from asft.cells.job import Job

REPOSITORY = Path(__file__).parent.parent
OFFICIAL = Path(os.environ.get("ASFT_TEST_DATA", REPOSITORY.parent / "shared" / "data" / "asft_official"))
PUBLIC = OFFICIAL.parent / "public_safety"

nightly = partial(pytest.param, marks=pytest.mark.nightly)  # a parameter that `make test-nightly` alone tries

Cli = Callable[..., subprocess.CompletedProcess[str]]
MakeJob = Callable[..., Job]
Asft = Callable[..., tuple[int, str, str]]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def finished(job: Job, kind: str) -> list[Path]:
    """The folders of one kind in a job's outputs."""
    return [path for path in (job.options.outputs / kind).glob("*") if path.is_dir()]


def trained(job: Job) -> dict[str, Tensor]:
    """The tensors that a cell trains; it is trained here where it is not yet."""
    from asft.pipeline.run import _Run  # takes seconds to load

    return load_file(next(_Run(job).train_stage().path.glob("*.safetensors")))
