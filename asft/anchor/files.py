"""Files that other programs wrote, opened so that what is wrong with one is told with its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError if it holds none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(file, f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _broken(file, "holds no JSON object")
    return value


def open_weights(file: Path) -> Any:
    """A safetensors file, opened to read its tensors one by one; ValueError if it is none, or not whole."""
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise _broken(file, f"is no whole safetensors file ({error})") from None


def _broken(file: Path, reason: str) -> ValueError:
    with file.open("rb") as stream:
        if stream.read(40).startswith(b"version https://git-lfs"):
            return ValueError(f"{str(file)!r} is a Git LFS pointer, not the file: run `git lfs pull` there.")
    return ValueError(f"{str(file)!r} {reason}: download or save it again.")
