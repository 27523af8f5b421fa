"""Settings that contradict each other, and more rows than the data hold: found before anything trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asft.config import CellConfig


def check_cell(cell: CellConfig) -> None:
    """Checks what needs more than one setting to see.

    Raises:
        ValueError: naming the key, its value and what to do instead.
    """
    _check_quantization(cell)
    if cell.data.root is None:
        return
    if cell.data.root == "hub":
        _check_hub(cell)
        return
    from asft.data.limits import check_data  # reads the files' sizes; the embedded world knows none of it

    check_data(cell)


def _check_quantization(cell: CellConfig) -> None:
    from asft.config import PretrainedModel

    if not isinstance(cell.model, PretrainedModel) or cell.model.quantization is None:
        return
    quantization = cell.model.quantization
    if cell.training.name == "full":
        raise ValueError(
            f"model.quantization={quantization}: quantised weights cannot be trained themselves; use training=lora"
        )
    if cell.protocol.name == "official":
        raise ValueError(
            f"model.quantization={quantization}: protocol=official trains in float32; leave model.quantization out or "
            "use protocol=clean"
        )


def _check_hub(cell: CellConfig) -> None:
    """The sources are named; how many rows they have is known once they are downloaded."""
    from asft.config import SafetyTunedModel
    from asft.data.hub import source

    if isinstance(cell.model, SafetyTunedModel):
        raise ValueError(
            f"data.root=hub: model={cell.model.name} learns its refusals from the authors' files; set data.root to a "
            "folder with them (docs/data.md)"
        )
    attack = [] if cell.attack.source == "none" else [cell.attack.source]
    for name in (f"{cell.dataset.name}_train", f"{cell.dataset.name}_test", "evaluation", "safety", *attack):
        source(cell, name)
