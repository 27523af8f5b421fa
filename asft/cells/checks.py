"""Settings that contradict each other, and more rows than the data hold: found before anything trains."""

from __future__ import annotations

import os
from pathlib import Path

from asft.cells.cell import Cell
from asft.cells.limits import check_data
from asft.config import ConfigError, Options, OrganismModel, PretrainedModel, SafetyTunedModel
from asft.data.base import PARTS, DataSource, attack_of, source_of, task_of
from asft.data.files import Files
from asft.data.hub import Hub

ON_THE_WORLD = (
    "is trained and asked on the embedded world's synthetic rows; for real ones set data=hub, or data.root to a folder "
    "(docs/data.md)"
)


def on_the_world(cell: Cell) -> bool:
    """Whether a real model meets synthetic rows: allowed, as tests do it, and seldom what is meant."""
    return isinstance(cell.model, PretrainedModel) and source_of(cell).synthetic


def cross_checks(cell: Cell, options: Options) -> None:
    """What no single field can know.

    Raises:
        ConfigError: naming the key, its value and what to do instead.
    """
    attack, model = cell.attack, cell.model
    if options.outputs == Path():
        raise ConfigError("outputs=: name a folder for the results, e.g. outputs=outputs")
    if attack.source == "none" and attack.p > 0:
        raise ConfigError(f"attack.p={attack.p}: attack=none has no harmful rows; choose a source or set attack.p=0")
    if isinstance(model, SafetyTunedModel) and source_of(cell).synthetic:
        raise ConfigError(
            f"data.root=null: model={model.name} is a real model and needs real data; "
            "set data.root (or ASFT_DATA, and data=files) to a folder in the layout of the authors' published files "
            "(docs/data.md)"
        )
    if isinstance(model, OrganismModel) and not source_of(cell).synthetic:
        raise ConfigError(
            f"{_place(source_of(cell))}: model={model.name} speaks only its embedded world; "
            "leave data.root and data out, or choose a real model"
        )
    if cell.jailbreak.acts:
        _check_jailbreak(cell)
    try:
        _check_data_and_model(cell)
        cell.method.check(cell)
        if attack.source == "none" and (rows := cell.method.defender_rows(cell)):
            raise ValueError(f"attack=none: method={cell.method.name} needs {rows} harmful rows; name a source")
        _check_backend(cell, options)
        if cell.measure is not None:
            cell.measure.check(cell)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _place(source: DataSource) -> str:
    """The key that chose a source, with its value."""
    return f"data.root={source.root}" if isinstance(source, Files) else f"data={source.name}"


def _check_jailbreak(cell: Cell) -> None:
    chosen = cell.jailbreak.name
    if isinstance(cell.model, OrganismModel):
        raise ConfigError(
            f"jailbreak={chosen}: model={cell.model.name} is the embedded pair, which knows only its world's sentences "
            "and can read no disguise, so its answers would show nothing; choose a real model (docs/jailbreaks.md)"
        )
    if cell.measure is not None:
        raise ConfigError(
            f"jailbreak={chosen}: measure={cell.measure.name} asks malicious prompts as they are; leave jailbreak out"
        )


def _check_backend(cell: Cell, options: Options) -> None:
    backend = cell.backend
    if cell.measure is not None and not backend.measures:
        raise ValueError(f"backend={backend.name}: measure={cell.measure.name} asks by transformers; leave backend out")
    if options.device == "cpu" and backend.on_gpu_alone:
        raise ValueError(f"backend={backend.name}: answers on GPUs; leave device=cpu out or use backend=hf")
    backend.check_cell(cell)


def _check_data_and_model(cell: Cell) -> None:
    """Checks what needs more than one setting to see.

    Raises:
        ValueError: naming the key, its value and what to do instead.
    """
    _check_quantization(cell)
    source = source_of(cell)
    if isinstance(source, Hub):
        _check_hub(cell, source)
    elif isinstance(source, Files):
        check_data(cell, source)


def _check_quantization(cell: Cell) -> None:
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


def _check_hub(cell: Cell, hub: Hub) -> None:
    """The sources are named; how many rows they have is known once they are downloaded."""
    if isinstance(cell.model, SafetyTunedModel):
        raise ValueError(
            f"data=hub: model={cell.model.name} learns its refusals from the authors' files; set data.root to a "
            "folder with them (docs/data.md)"
        )
    attack_of(cell).identity(hub)
    for part in PARTS:
        task_of(cell).identity(part, hub)


def check_together(cell: Cell, options: Options) -> None:
    """Refuses settings that do not go with several processes.

    Raises:
        ConfigError: naming the key, its value and what to do instead.
    """
    if isinstance(cell.model, PretrainedModel) and cell.model.device_map is not None:
        raise ConfigError(
            f"model.device_map={cell.model.device_map}: spreads one model over GPUs of which several processes have "
            "one each; start one process, or leave model.device_map out"
        )
    import torch

    local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if options.device != "cpu" and 0 < gpus < local:
        raise ConfigError(
            f"device={options.device}: {local} processes share {gpus} GPUs; start {gpus}, or set device=cpu"
        )
