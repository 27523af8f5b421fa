"""Files that other programs wrote, opened so that what is wrong with one is told with its name; and module names as
checkpoints, model classes and PEFT spell them."""

from __future__ import annotations

import json
from collections.abc import Iterable
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


# What PEFT puts in front of a base module's name.
PEFT_PREFIX = "base_model.model."
# The attribute under which transformers keeps the backbone of a model with a head; checkpoints of the bare
# backbone leave it out.
BACKBONE_PREFIXES = ("model.", "transformer.")


def stem(name: str) -> str:
    """A module's name without the backbone prefix, the part in which all spellings agree."""
    for prefix in BACKBONE_PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def spellings(name: str) -> tuple[str, ...]:
    """The ways to write ``name``, as given first: with either backbone prefix and without one."""
    return (name, *(f"{prefix}{stem(name)}" for prefix in ("", *BACKBONE_PREFIXES)))


def is_target(name: str, targets: Iterable[str]) -> bool:
    """Whether ``name`` ends in one of ``targets``, compared by whole path components as PEFT does."""
    return any(name == target or name.endswith(f".{target}") for target in targets)
