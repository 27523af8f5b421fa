"""Downloads and disk of a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asft.cells.cell import CellConfig
from asft.config import PretrainedModel
from asft.planning.memory import checkpoint_judges, has_anchor, judge_bytes
from asft.planning.shape import Shape, local_snapshot, parameters_in_name
from asft.planning.tokens import answer_tokens

_STORED_BYTES = 4  # of an adapter's parameters, an anchor's matrices, the embedded pair
_PUBLISHED_BYTES = 2  # of a parameter in a published checkpoint
_BYTES_PER_TOKEN = 4
_KEPT_TWICE = 2  # answers, and again with their verdicts


@dataclass(frozen=True)
class Download:
    """A hub repository that is not on this machine, what it is for, and its size (0: unknown)."""

    source: str
    purpose: str
    size: float


def downloads(cells: Iterable[CellConfig]) -> list[Download]:
    """Repositories that the cells need and this machine's cache lacks; sizes are by the names."""
    wanted: dict[str, Download] = {}
    for cell in cells:
        if isinstance(cell.model, PretrainedModel):
            for side, source, revision in (
                ("base", cell.model.base, cell.model.base_revision),
                ("aligned", cell.model.aligned, cell.model.aligned_revision),
            ):
                if local_snapshot(source, revision) is None:
                    size = _PUBLISHED_BYTES * (parameters_in_name(source) or 0)
                    wanted.setdefault(source, Download(source, f"model.{side}", size))
        for judge in checkpoint_judges(cell.judge):
            if local_snapshot(judge.model, judge.revision) is None:
                wanted.setdefault(judge.model, Download(judge.model, f"judge={judge.name}", judge_bytes(judge)))
    return list(wanted.values())


def disk_bytes(fine_tunes: Iterable[CellConfig], cells: Iterable[CellConfig], shape: Shape) -> float:
    """Bytes that fine-tunes, anchors and answers take below ``outputs``, at most.

    A post-hoc method's adapter is a fine-tune's in size; an anchor holds two o×o matrices per module.
    """
    cells = list(cells)
    stored = [*fine_tunes, *(cell for cell in cells if cell.method.parent is not None)]
    weights = sum(
        _STORED_BYTES * shape.lora_parameters(cell.training.rank)
        if cell.training.name == "lora"
        else _PUBLISHED_BYTES * shape.parameters
        for cell in stored
    )
    answers = sum(answer_tokens(cell) * _BYTES_PER_TOKEN * _KEPT_TWICE for cell in cells)
    kinds = {str(cell.method.settings().get("variant", cell.method.name)) for cell in cells if has_anchor(cell)}
    anchors = len(kinds) * 2 * _STORED_BYTES * sum(outputs**2 for outputs, _ in shape.adapted)
    return float(weights + answers + anchors)
