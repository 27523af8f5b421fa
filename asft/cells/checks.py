"""Settings that contradict each other, and more rows than the data hold: found before anything trains."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from asft.cells.cell import Cell
from asft.config import ConfigError, Options, OrganismModel, PretrainedModel, SafetyTunedModel, Side
from asft.data.base import PARTS, Attack, DataSource, Task, attack_of, gather, source_of, task_of, twin_of
from asft.data.files import Files
from asft.data.hub import Hub
from asft.methods.base import Start

ON_THE_WORLD = (
    "is trained and asked on the embedded world's synthetic rows; for real ones set data=hub, or data.root to a folder "
    "(docs/data.md)"
)


def on_the_world(cell: Cell) -> bool:
    """Whether a real model meets synthetic rows: allowed, as tests do it, and seldom what is meant."""
    return isinstance(cell.model, PretrainedModel) and source_of(cell).synthetic


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
            _check_data(cell, source)
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
    if not isinstance(model, PretrainedModel) or model.quantization is None:
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


def check_together(cell: Cell, options: Options) -> None:
    """Refuses, by ConfigError, settings that do not go with several processes."""
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


@dataclass(frozen=True)
class Sizes:
    """Rows of each pool of a data folder, for one task."""

    benign: int
    harmful: int
    safety: int
    evaluation: int


_counted: dict[str, Sizes] = {}


def _check_data(cell: Cell, files: Files) -> None:
    """Compares what a cell draws with what its data folder holds.

    The authors' shipped files are small (docs/data.md), so many settings of the paper's tables need more of theirs.
    """
    sizes = pool_sizes(files, task_of(cell), attack_of(cell))
    if cell.evaluation.n_harmful > sizes.evaluation:
        raise ValueError(
            f"evaluation.n_harmful={cell.evaluation.n_harmful}: the folder holds {sizes.evaluation} malicious prompts; "
            "ask for at most that"
        )
    if cell.method.trains:
        _check_rows(cell, files)
    for required in cell.required().values():
        _check_rows(required, files)


def pool_sizes(files: Files, task: Task, attack: Attack) -> Sizes:
    """The pools that a cell draws from, counted once as long as no file of the folder changes."""
    root = files.folder
    there = sorted([*(root / "ft_datasets").rglob("*.json"), *(root / "evaluation").rglob("*.json*")])
    place = repr((files, task, attack, attack.identity(files), [(path, path.stat().st_mtime_ns) for path in there]))
    if place not in _counted:
        data = gather(files, task, attack)
        _counted[place] = Sizes(*map(len, (data.train, data.harmful, data.safety, data.evaluation)))
    return _counted[place]


def _check_rows(cell: Cell, files: Files) -> None:
    attack, task = attack_of(cell), task_of(cell)
    sizes = pool_sizes(files, task, attack)
    needed = cell.method.safety_rows(cell)
    if needed > sizes.safety:
        raise ValueError(
            f"method={cell.method.name}: needs {needed} safety rows with attack.n={attack.n}; the folder holds "
            f"{sizes.safety} (the malicious prompts of agnews_1k_p_0.2.json that no file of n ≤ 1000 and p ≤ 0.1 "
            "holds). Lower the method's own count (method.share, method.safety) or attack.n."
        )
    if cell.protocol.name == "official" and files.mixture_rows(task, attack) is not None:
        return
    if attack.benign_count() > sizes.benign:
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p:g} and attack.mix={attack.mix} needs {attack.benign_count()} "
            f"benign rows; the folder holds {sizes.benign} of dataset={cell.dataset.name}. Lower attack.n, or put a "
            f"larger file <task>_<n>k_p_0.json beside those in {files.folder}/ft_datasets."
        )
    defender = cell.method.defender_rows(cell)
    if attack.harmful_count() + defender > sizes.harmful:
        kept = f" and method={cell.method.name} {defender} others" if defender else ""
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p:g} needs {attack.harmful_count()} harmful rows{kept}; the "
            f"folder holds {sizes.harmful} besides the safety rows. Lower attack.n or attack.p, or add files with more."
        )
