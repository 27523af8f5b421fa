"""A copy of a model pair with one of its JSON files changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def changed_pair(pair: Path, target: Path, file: str, **values: Any) -> list[str]:
    """Copies both sides of ``pair`` below ``target``, sets ``values`` in ``file``; returns overrides that take it."""
    for side in ("base", "aligned"):
        shutil.copytree(pair / side, target / side)
        path = target / side / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return [f"model.base={target / 'base'}", f"model.aligned={target / 'aligned'}"]
