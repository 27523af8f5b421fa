"""Anchors on disk: one safetensors file per module and a readable ``anchor.json``, complete or absent.

A directory is written beside its final place under a lock and renamed when finished, so that an interrupted
build never looks like a finished one and two processes never build the same anchor twice. One that is not what was
written is set aside and built anew.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file, save_file

from asft.anchor.forms import FORMS, AnchoredModule
from asft.store.anchors import DAMAGED, read_meta, write_meta
from asft.store.integrity import DamagedEntry, set_aside

logger = logging.getLogger(__name__)


def store(directory: Path, modules: Iterable[AnchoredModule]) -> None:
    """Write ``modules`` to ``directory`` unless they are there whole; one module is in memory at a time."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if directory.is_dir() and _whole(directory):
            return
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        partial.mkdir()
        try:
            entries: list[dict[str, Any]] = []
            for module in modules:
                entries.append(_write(partial, len(entries), module))
                del module  # before the next one is built
            write_meta(partial, entries)
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


def _whole(directory: Path) -> bool:
    """Whether a cached anchor is what was written; if not, it is moved out of the way."""
    try:
        load(directory)
    except DamagedEntry as error:
        target = set_aside(directory, directory.parent / DAMAGED)
        logger.warning("damaged anchor: %s. Set aside in %s, built anew", error, target)
        return False
    return True


def load(directory: Path) -> list[AnchoredModule]:
    """Read what :func:`store` wrote; every byte is checked, and the tensors are mapped from the files.

    Raises:
        DamagedEntry: ``directory`` holds no anchor, or not what was written.
        ValueError: it holds an anchor of another layout.
    """
    modules = []
    for entry in read_meta(directory)["modules"]:
        file = directory / entry.pop("file")
        form = FORMS[entry.pop("form")](**load_file(file), side=entry.pop("side"))
        modules.append(AnchoredModule(**entry, form=form))
    return modules
