"""Settings that contradict each other: found when a configuration is typed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import get_args

from asft.cells.cell import Cell
from asft.config import ConfigError, Options, OrganismModel, PretrainedModel, SafetyTunedModel, Side
from asft.data.base import PARTS, DataSource, attack_of, source_of, task_of, twin_of
from asft.data.files import Files
from asft.data.hub import Hub
from asft.methods.base import Start


def nearest(path: Path) -> Path:
    """The path, or the first above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def to_tell(cells: Iterable[Cell]) -> list[str]:
    """Lines on models that meet rows which are not for them: allowed, as tests do it, and seldom what is meant."""
    told = set()
    for cell in cells:
        model, task = cell.model, task_of(cell)
        if isinstance(model, PretrainedModel) and source_of(cell).synthetic:
            told.add(
                f"model={model.name} is trained and asked on the embedded world's synthetic rows; for real ones set "
                "data=hub, or data.root to a folder (docs/data.md)"
            )
        if isinstance(model, OrganismModel) and task.own_rows:
            told.add(
                f"model={model.name} understands only its embedded world, and dataset={task.name} has rows of its own; "
                "choose a real model for them (docs/how-to/dataset.md)"
            )
    return sorted(told)


def few_test_rows(cells: Iterable[Cell]) -> list[str]:
    """A line for each data set with fewer test rows than are asked for; data that cannot be read are told elsewhere."""
    told = []
    for task, source in {repr(pair): pair for pair in ((task_of(cell), source_of(cell)) for cell in cells)}.values():
        with suppress(ValueError, OSError):
            if task.n_test > (there := len(task.rows("test", source))):
                told.append(f"dataset.n_test={task.n_test}: there are only {there} test rows; all of them are asked")
    return told


def cross_checks(cell: Cell, options: Options) -> None:
    """What no single field can know; ConfigError naming the key, its value and what to do instead."""
    attack, source = cell.attack, source_of(cell)
    try:
        if options.outputs == Path():
            raise ValueError("outputs=: name a folder for the results, e.g. outputs=outputs")
        if not nearest(options.outputs).is_dir():
            raise ValueError(f"outputs={options.outputs}: {nearest(options.outputs)} is a file; name a folder")
        if twice := cell.beside.keys() & cell.metrics:
            raise ValueError(f"beside.{min(twice)}: the cell has a metric of this name; give it another")
        if attack.source == "none" and attack.p > 0:
            raise ValueError(f"attack.p={attack.p}: attack=none has no harmful rows; choose a source or set attack.p=0")
        _check_model(cell, source)
        if cell.jailbreak.acts:
            _check_jailbreak(cell)
        if isinstance(source, Hub):  # how many rows the sources have is known once they are downloaded
            attack_of(cell).identity(source)
            for part in PARTS:
                task_of(cell).identity(part, source)
        elif isinstance(source, Files):
            source.folder  # noqa: B018  # says that it is not there
        cell.method.check(cell)
        if (start := cell.method.start()) not in get_args(Side) and not isinstance(start, Start):
            raise ValueError(
                f"method={cell.method.name}: start() gives {start!r}; allowed: {', '.join(get_args(Side))}, or a Start"
            )
        if attack.source == "none" and (rows := cell.method.defender_rows(cell)):
            raise ValueError(f"attack=none: method={cell.method.name} needs {rows} harmful rows; name a source")
        _check_backend(cell, options)
        if cell.measure is not None:
            cell.measure.check(cell)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_model(cell: Cell, source: DataSource) -> None:
    model = cell.model
    if isinstance(model, SafetyTunedModel) and source.synthetic:
        raise ValueError(
            f"data.root=null: model={model.name} is a real model and needs real data; "
            "set data.root (or ASFT_DATA, and data=files) to a folder in the layout of the authors' published files "
            "(docs/data.md)"
        )
    if isinstance(model, SafetyTunedModel) and isinstance(source, Hub):
        raise ValueError(
            f"data=hub: model={model.name} keeps clear of the prompts of the authors' files; set data.root to a "
            "folder with them (docs/data.md)"
        )
    twin_of(cell)  # refuses a folder that lacks what the aligned side is made of
    if isinstance(model, OrganismModel) and not source.synthetic:
        place = f"data.root={source.root}" if isinstance(source, Files) else f"data={source.name}"
        raise ValueError(
            f"{place}: model={model.name} speaks only its embedded world; leave data.root and data out, or choose a "
            "real model"
        )
    if not isinstance(model, PretrainedModel):
        return
    if model.quantization is None:
        # AdamW's step is about the learning rate; half the distance between 16-bit numbers near 0.02 is 6e-5.
        if cell.training.name == "full" and cell.protocol.name == "clean" and model.dtype != "float32":
            raise ValueError(
                f"model.dtype={model.dtype}: training=full would lose most of its updates to rounding; allowed: "
                "float32. Set model.dtype=float32 training.autocast=bfloat16 evaluation.dtype=bfloat16, which trains "
                "in 16 bytes a parameter, or use training=lora"
            )
        return
    if cell.training.name == "full":
        raise ValueError(
            f"model.quantization={model.quantization}: quantised weights cannot be trained themselves; use "
            "training=lora"
        )
    if cell.protocol.name == "official":
        raise ValueError(
            f"model.quantization={model.quantization}: protocol=official trains in float32; leave model.quantization "
            "out or use protocol=clean"
        )


def _check_jailbreak(cell: Cell) -> None:
    chosen = cell.jailbreak.name
    if isinstance(cell.model, OrganismModel):
        raise ValueError(
            f"jailbreak={chosen}: model={cell.model.name} is the embedded pair, which knows only its world's sentences "
            "and can read no disguise, so its answers would show nothing; choose a real model (docs/jailbreaks.md)"
        )
    if cell.measure is not None:
        raise ValueError(
            f"jailbreak={chosen}: measure={cell.measure.name} asks malicious prompts as they are; leave jailbreak out"
        )


def _check_backend(cell: Cell, options: Options) -> None:
    backend = cell.backend
    if cell.measure is not None and not backend.measures:
        raise ValueError(f"backend={backend.name}: measure={cell.measure.name} asks by transformers; leave backend out")
    if options.device == "cpu" and backend.on_gpu_alone:
        raise ValueError(f"backend={backend.name}: answers on GPUs; leave device=cpu out or use backend=hf")
    backend.check_cell(cell)


def check_together(cell: Cell, device: str) -> None:
    """Refuses, by ConfigError, settings that do not go with several processes."""
    if isinstance(cell.model, PretrainedModel) and cell.model.device_map is not None:
        raise ConfigError(
            f"model.device_map={cell.model.device_map}: spreads one model over GPUs of which several processes have "
            "one each; start one process, or leave model.device_map out"
        )
    import torch

    local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if device != "cpu" and 0 < gpus < local:
        raise ConfigError(f"device={device}: {local} processes share {gpus} GPUs; start {gpus}, or set device=cpu")
