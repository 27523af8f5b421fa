"""The checkpoints that cells are made of, and those of them that are still to be downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from asft.cells.cell import Cell
from asft.config import PretrainedModel
from asft.judges.base import Judge
from asft.judges.checkpoint_judge import CheckpointJudge
from asft.judges.ensemble import EnsembleJudge

_SIZE_IN_NAME = re.compile(r"(?<![a-z\d.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)
BYTES = {"float32": 4, "bfloat16": 2}  # of a parameter


@dataclass(frozen=True)
class Needed:
    """A folder or hub repository that cells load, what it is for, and bytes of a parameter of it."""

    source: str
    revision: str
    purpose: str
    width: int

    @property
    def size(self) -> int:
        """Bytes, by the size in the name; 0 where there is none."""
        return self.width * (parameters_in_name(self.source) or 0)


def checkpoints(cells: Iterable[Cell]) -> list[Needed]:
    """Every checkpoint that the cells load, once."""
    found: dict[tuple[str, str], Needed] = {}
    for cell in cells:
        model = cell.model
        wanted = [
            Needed(judge.model, judge.revision, f"judge={judge.name}", BYTES[judge.dtype])
            for judge in judges(cell.judge)
            if isinstance(judge, CheckpointJudge)
        ]
        if isinstance(model, PretrainedModel):  # published checkpoints hold two bytes a parameter
            wanted.append(Needed(model.base, model.base_revision, "model.base", 2))
            wanted.append(Needed(model.aligned, model.aligned_revision, "model.aligned", 2))
        for item in wanted:
            found.setdefault((item.source, item.revision), item)
    return list(found.values())


def downloads(cells: Iterable[Cell]) -> list[Needed]:
    """Those that are not on this machine."""
    return [item for item in checkpoints(cells) if local_snapshot(item.source, item.revision) is None]


def judges(judge: Judge) -> list[Judge]:
    """The judge, or the members of an ensemble."""
    if isinstance(judge, EnsembleJudge):
        return [found for member in judge.members.values() for found in judges(member)]
    return [judge]


def local_snapshot(source: str, revision: str) -> Path | None:
    """A local folder, or a hub repository's in the cache that holds a ``config.json``; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        return None
    found = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def parameters_in_name(name: str) -> int | None:
    """7_000_000_000 for ``Llama-2-7b-chat-hf``; None where no size stands in the name."""
    found = _SIZE_IN_NAME.findall(re.sub(r"[_/-]", " ", name))
    return round(float(found[-1][0]) * (10**9 if found[-1][1].lower() == "b" else 10**6)) if found else None
