"""``anchor.json``: what an anchor on disk holds, with its own checksum and every file's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired

from asft.store.errors import DamagedEntry
from asft.store.integrity import check_contents, describe_files, read_manifest, seal
from asft.store.schemas import SEALED, FileName, Positive, list_of, object_of

LAYOUT = 1  # raise when the files' meaning changes; part of every cache key
META = "anchor.json"


_Module = object_of(
    name=str,
    out_features=Positive,
    in_features=Positive,
    norm=float,
    error_bound=float,
    form=Literal["gram", "factor", "rank_k", "identity"],
    side=Literal["orthogonal", "along"],
    file=FileName,
    assumed=NotRequired[bool],
)
_Meta = object_of(**SEALED, layout=int, modules=list_of(_Module))


def write_meta(directory: Path, modules: Sequence[dict[str, Any]]) -> None:
    """Describes the modules and the files that are in ``directory`` by now."""
    meta = {"layout": LAYOUT, "modules": list(modules), "files": describe_files(directory)}
    (directory / META).write_text(json.dumps(seal(meta), indent=1))


def read_meta(directory: Path) -> dict[str, Any]:
    """The description, after a look at every byte of the files.

    Raises:
        DamagedEntry: ``directory`` holds no anchor, or not what was written.
        ValueError: it holds an anchor of another layout.
    """
    if not (directory / META).is_file():
        raise DamagedEntry(f"{str(directory)!r} holds no anchor ({META} is missing): build one with Anchor.build.")
    meta = read_manifest(directory, META, _Meta)
    check_contents(directory, meta)
    if meta["layout"] != LAYOUT:
        raise ValueError(f"{str(directory)!r} has layout {meta['layout']}, this version reads {LAYOUT}: rebuild it.")
    return meta
