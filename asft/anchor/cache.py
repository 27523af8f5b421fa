"""Anchors on disk: one safetensors file per module and a readable ``anchor.json``, complete or absent.

A directory is written beside its final place under a lock and renamed when finished, so that an interrupted
build never looks like a finished one and two processes never build the same anchor twice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file, save_file

from asft.anchor.forms import FORMS
from asft.anchor.module import AnchoredModule

LAYOUT = 1  # raise when the files' meaning changes; part of every cache key
META = "anchor.json"


def store(directory: Path, modules: Iterable[AnchoredModule]) -> None:
    """Write ``modules`` to ``directory`` unless it is there already; one module is in memory at a time."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if directory.is_dir():
            return
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        partial.mkdir()
        try:
            entries: list[dict[str, Any]] = []
            for module in modules:
                entries.append(_write(partial, len(entries), module))
                del module  # before the next one is built
            (partial / META).write_text(json.dumps({"layout": LAYOUT, "modules": entries}, indent=1))
            os.replace(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write(directory: Path, number: int, module: AnchoredModule) -> dict[str, Any]:
    file = f"{number:04d}.safetensors"
    save_file(module.form.tensors(), directory / file)
    return {
        "name": module.name,
        "out_features": module.out_features,
        "in_features": module.in_features,
        "norm": module.norm,
        "error_bound": module.error_bound,
        "form": module.form.kind,
        "side": module.form.side,
        "file": file,
    }


def load(directory: Path) -> list[AnchoredModule]:
    """Read what :func:`store` wrote; the tensors are mapped from the files.

    Raises:
        ValueError: ``directory`` holds no anchor, or one of another layout.
    """
    if not (directory / META).is_file():
        raise ValueError(f"{str(directory)!r} holds no anchor ({META} is missing): build one with Anchor.build.")
    meta = json.loads((directory / META).read_text())
    if meta["layout"] != LAYOUT:
        raise ValueError(f"{str(directory)!r} has layout {meta['layout']}, this version reads {LAYOUT}: rebuild it.")
    modules = []
    for entry in meta["modules"]:
        tensors = load_file(directory / entry.pop("file"))
        form = FORMS[entry.pop("form")](**tensors, side=entry.pop("side"))
        modules.append(AnchoredModule(**entry, form=form))
    return modules
