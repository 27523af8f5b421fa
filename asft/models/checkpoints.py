"""Checkpoints by local path or hub id: safetensors only, whatever they are for. Keys need it, so torch loads later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asft.door import open_weights
from asft.store.digest import file_digest

# Everything of a checkpoint that can change an answer; pickles are not among it.
CHECKPOINT_FILES = ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja")
# Bytes of weights below which one thread is as good as several: the embedded pairs (4 MB) are far below, the smallest
# real model (270 MB) is above.
SMALL = 100e6


def holds_adapter(folder: Path) -> bool:
    """Whether a trained folder holds an adapter to a checkpoint, and not a checkpoint itself."""
    return (folder / "adapter_config.json").exists()


def checkpoint_identity(folder: Path) -> dict[str, str]:
    """What tells a local checkpoint from another wherever it lies: the digest of each of its files."""
    files = sorted(file for pattern in CHECKPOINT_FILES for file in folder.glob(pattern) if file.is_file())
    return {file.name: file_digest(file) for file in files}


def fetch_checkpoint(source: str, revision: str, key: str) -> Path:
    """A local folder as it is, or a hub snapshot without pickles; ValueError when neither is within reach.

    ``source`` is a folder or a hub id, ``key`` the setting that named it, for messages.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if (local := Path(source).expanduser()).is_dir():
        return local.resolve()
    if source.startswith((".", "/", "~")):
        raise ValueError(f"{key}={source}: no such folder")
    offline = not _answers(source, revision)
    patterns = list(CHECKPOINT_FILES)
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        told = str(error).strip().rpartition("\n\n")[2].splitlines()[0]  # a number and a request's id stand above
        if isinstance(error, RepositoryNotFoundError):  # or one that is not open to the user
            told += f" If it is gated, accept its licence at https://huggingface.co/{source} and log in: "
            told += "`hf auth login`, or the variable HF_TOKEN"
        reason = "it is out of reach, and the cache lacks it" if offline else told
        raise ValueError(
            f"{key}={source} (revision {revision}): neither a local folder nor to be had from the hub: {reason}"
        ) from error


def _answers(repository: str, revision: str) -> bool:
    """Whether the hub answers, be it by a refusal: without a network a download would try for most of a minute."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().repo_info(repository, revision=revision, timeout=5)
    except (HfHubHTTPError, HFValidationError):
        return True
    except Exception:  # no network: the HTTP library's errors differ by version
        return False
    return True


def same_weights(one: Path, other: Path) -> bool:
    """Whether the tensors that two folders both hold are equal, be they adapters or whole checkpoints."""
    import torch

    first, second = _stored(one), _stored(other)
    shared = first.keys() & second.keys()
    for key in shared:
        left, right = first[key].get_tensor(key), second[key].get_tensor(key)
        finer = torch.promote_types(left.dtype, right.dtype)
        if not torch.equal(left.to(finer), right.to(finer)):
            return False
    return bool(shared)


def _stored(folder: Path) -> dict[str, Any]:
    """Each tensor's name and the open file that holds it."""
    files = map(open_weights, sorted(folder.glob("*.safetensors")))
    return {key: file for file in files for key in file.keys()}  # noqa: SIM118  # no dict
