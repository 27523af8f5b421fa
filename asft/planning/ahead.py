"""What ends a cell for sure, told before anything runs: by the settings, the model's files and the rows that are here.

`asft doctor` lists it all; `asft run` refuses by the first. Nothing is downloaded, and the hub is not asked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

from asft.cells.cell import Cell
from asft.cells.checks import nearest
from asft.cells.job import Job
from asft.config import ConfigError, PretrainedModel
from asft.data.base import Data, attack_of, pools, source_of, task_of
from asft.data.hub import Hub
from asft.data.rows import held_back, poison
from asft.distributed.team import check_launcher
from asft.door import stored_shapes
from asft.judges.checkpoint_judge import CheckpointJudge
from asft.models.checkpoints import checkpoint_identity
from asft.models.gpu import unseen_gpu
from asft.planning.size import Needed, checkpoints, judges, local_snapshot, target_modules

State = Literal["ok", "note", "missing"]  # missing: the experiment cannot run without it


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it stands, and in words what was found or is to be done."""

    what: str
    state: State
    text: str


def refuse(jobs: Sequence[Job], *, elsewhere: bool = False) -> None:
    """Raises ConfigError for the first thing that the jobs lack.

    ``elsewhere``: a launcher sends them to other machines, which may have what this one has not.
    """
    for finding in of_settings(jobs) if elsewhere else (*of_settings(jobs), *of_machine(jobs)):
        if finding.state == "missing":
            raise ConfigError(finding.text)


def of_settings(jobs: Iterable[Job]) -> Iterator[Finding]:
    """What models and data do not hold."""
    asked = [job.cell for job in jobs]
    distinct = {repr(other): (other, cell) for cell in asked for other in _needed(cell)}
    distinct |= {repr(cell): (cell, cell) for cell in asked}
    yield from filter(None, map(checkpoint, checkpoints(asked)))
    yield from _templates(asked)
    checks: dict[str, Callable[[Cell], None]] = {"modules": partial(_modules, {}), "data": partial(_rows, {})}
    for what, check in checks.items():
        told: dict[str, None] = {}
        for cell, by in distinct.values():
            if text := _refused(partial(check, cell)):
                told[text if cell is by else f"method={by.method.name} trains on other rows first: {text}"] = None
        yield from (Finding(what, "missing", text) for text in told)


def of_machine(jobs: Sequence[Job]) -> Iterator[Finding]:
    """A folder to write to, a GPU that is asked for, packages, and variables that hold keys."""
    for outputs in dict.fromkeys(job.options.outputs for job in jobs):
        fault = "cannot be written"
        try:
            with TemporaryFile(dir=nearest(outputs)) as file:  # root may write everywhere, but for read-only places
                fault = "has no file locks, by which processes share it"
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield Finding("outputs", "missing", f"outputs={outputs}: {fault}; name another folder")
    if jobs and jobs[0].options.device == "cuda":
        yield device({"cuda"})
    if jobs and (text := _refused(check_launcher)):
        yield Finding("launcher", "missing", text)
    yield from _plugins(job.cell for job in jobs)


def left_out(jobs: Iterable[Job]) -> list[str]:
    """Which metrics beside are not scored, since the data source has nothing to ask, and the first one's reason."""
    found = {tuple(job.plan.left_out): [*job.plan.left_out.values()] for job in jobs}
    return [f"{', '.join(names)}: not scored; {reasons[0]}" for names, reasons in found.items() if names]


def _needed(cell: Cell) -> Iterator[Cell]:
    """The cells whose weights one takes."""
    for other in {**cell.required(), **cell.measured()}.values():
        yield from (other, *_needed(other))


def device(asked: Collection[str]) -> Finding:
    """The GPUs, or that there is none, or none that torch sees; ``asked`` are the cells' devices."""
    none = f"none; everything runs on {os.cpu_count()} CPU cores"
    if "cuda" not in asked and shutil.which("nvidia-smi") is None:  # no driver; torch takes seconds to load
        return Finding("CUDA", "note", none)
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        there = "; ".join(f"{one.name}, {one.total_memory / 2**30:.0f} GiB" for one in devices)
        return Finding("CUDA", "ok", there if {*asked} != {"cpu"} else f"{there}; these cells are computed on the CPU")
    if "cuda" in asked:
        return Finding("CUDA", "missing", "device=cuda: no CUDA device is visible; use device=cpu or device=auto")
    if "auto" in asked:
        return Finding("CUDA", "missing", unseen_gpu())
    return Finding("CUDA", "note", none)


def checkpoint(item: Needed) -> Finding | None:
    """A checkpoint on this machine, or one that cannot come here; None of what the hub may have."""
    from huggingface_hub import constants

    folder, source = local_snapshot(item.source, item.revision), item.source
    if folder is not None and any(folder.glob("*.safetensors")):
        return Finding(item.purpose, "ok", f"{source}, on this machine")
    lack = None
    if folder is not None and Path(source).expanduser().is_dir():
        lack = "holds no *.safetensors"
    elif source.startswith((".", "/", "~")):
        lack = "no such folder"
    elif constants.HF_HUB_OFFLINE:
        lack = f"revision {item.revision} is not on this machine, and HF_HUB_OFFLINE is set"
    return Finding(item.purpose, "missing", f"{item.purpose}: {source}: {lack}") if lack else None


def _templates(cells: Iterable[Cell]) -> Iterator[Finding]:
    """Aligned models on this machine whose tokenizer has no chat template, which one protocol does not need."""
    models = [cell.model for cell in cells if cell.protocol.name == "clean"]
    pretrained = [model for model in models if isinstance(model, PretrainedModel)]
    for name, revision in dict.fromkeys((model.aligned, model.aligned_revision) for model in pretrained):
        folder = local_snapshot(name, revision)
        if folder is None or any(folder.glob("chat_template*")):
            continue
        settings = folder / "tokenizer_config.json"
        if not (settings.exists() and '"chat_template"' in settings.read_text()):
            text = f"model.aligned={name}: its tokenizer has no chat template"
            advice = "name a model that has one, save one with its tokenizer, or use protocol=official"
            yield Finding("chat template", "missing", f"{text}; {advice}")


def _modules(seen: dict[str, dict[str, tuple[int, int]] | None], cell: Cell) -> None:
    """Refuses targets that the model does not have, what the method says of them, and two sides that make no pair."""
    model, method, targets = cell.model, cell.method, cell.training.target_modules
    trains = method.trains and (cell.training.name == "lora" or method.overrides("check_modules"))
    if not trains and not isinstance(model, PretrainedModel):
        return
    if (place := repr((model, targets))) not in seen:
        seen[place] = target_modules(model, targets)
        if isinstance(model, PretrainedModel):
            _check_pair(model, seen[place] or {})
    if (modules := seen[place]) is not None:
        method.check_modules(modules, cell)


def _check_pair(model: PretrainedModel, modules: Mapping[str, tuple[int, int]]) -> None:
    base, aligned = (
        local_snapshot(*side) for side in ((model.base, model.base_revision), (model.aligned, model.aligned_revision))
    )
    if base is None or aligned is None:
        return
    sides, there = f"model.base={model.base} and model.aligned={model.aligned}", stored_shapes(base)
    for name, shape in modules.items():
        if there.get(f"{name}.weight", shape) != shape:
            raise ValueError(
                f"{sides}: {name} has shape {there[f'{name}.weight']} in the one and {shape} in the other; give two "
                "checkpoints of one architecture and size"
            )
    if _weights(base) == _weights(aligned):
        raise ValueError(f"{sides}: have the same weights, so there is no alignment direction; give two models")


def _weights(folder: Path) -> dict[str, str]:
    """Digests of a checkpoint's files of weights, which its key holds already."""
    return {name: found for name, found in checkpoint_identity(folder).items() if name.endswith(".safetensors")}


def _rows(seen: dict[str, Data], cell: Cell) -> None:
    """Refuses to draw more rows than there are; of the hub's, only those that lie here are counted."""
    source, method, official = source_of(cell), cell.method, cell.protocol.name == "official"
    task = cell.dataset.name
    if isinstance(source, Hub) and not source.at_hand(f"{task}_train", f"{task}_test", cell.attack.source):
        return
    place = repr((cell.data, cell.dataset, cell.attack, cell.evaluation.n_harmful))
    data = seen[place] = seen.get(place) or pools(cell)
    if not method.trains:
        return
    rows = source.mixture_rows(task_of(cell), attack_of(cell)) if official else None
    drawn = poison(data.train, data.harmful, cell.attack, cell.seed) if rows is None else rows
    if count := method.defender_rows(cell):
        held_back(data.harmful, drawn, count, cell.seed)
    method.check_rows(drawn, data, cell)
    if official and len(drawn) < cell.training.batch_size and not method.overrides("mixture"):
        raise ValueError(
            f"training.batch_size={cell.training.batch_size}: protocol=official drops a batch that is not full, and "
            f"there are only {len(drawn)} rows. Lower training.batch_size or raise attack.n."
        )


def _plugins(cells: Iterable[Cell]) -> Iterator[Finding]:
    """Judges that are no checkpoint, the grader where a cell needs it, jailbreaks and backends, by their own checks."""
    parts: dict[str, Any] = {}  # all have check()
    for cell in cells:
        parts |= {f"judge={one.name}": one for one in judges(cell.judge) if not isinstance(one, CheckpointJudge)}
        if cell.jailbreak.acts:
            parts[f"jailbreak={cell.jailbreak.name}"] = cell.jailbreak
        if cell.backend.name != "hf":  # transformers is there, or nothing else would be
            parts[f"backend={cell.backend.name}"] = cell.backend
        if cell.graded:
            parts[f"grader={cell.grader.name}"] = cell.grader
    for what, part in parts.items():
        text = _refused(part.check)
        yield Finding(what, "missing", text) if text else Finding(what, "ok", "ready")


def _refused(check: Callable[[], object]) -> str | None:
    """What a check says where it refuses."""
    try:
        check()
    except ValueError as error:
        return str(error)
    except Exception:  # of a plug-in's own code: the cell tells it, with its place
        return None
    return None
