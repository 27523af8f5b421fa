"""What tests import of one another: places, the types of shared fixtures, and a mark."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

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
