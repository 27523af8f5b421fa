"""Checkpoints by local path or hub id: safetensors only, whatever they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from asft.door import open_weights
from asft.models.checkpoint_files import CHECKPOINT_FILES

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def fetch_checkpoint(source: str, revision: str, key: str) -> Path:
    """A local folder as it is, or a hub snapshot without pickles; ValueError when neither is within reach.

    ``source`` is a folder or a hub id, ``key`` the setting that named it, for messages.
    """
    if (local := Path(source).expanduser()).is_dir():
        return local.resolve()
    if source.startswith((".", "/", "~")):
        raise ValueError(f"{key}={source}: no such folder")
    offline = not _answers(source, revision)
    patterns = list(CHECKPOINT_FILES)
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = "it is out of reach, and the cache lacks it" if offline else str(error).strip().splitlines()[0]
        raise ValueError(
            f"{key}={source} (revision {revision}): neither a local folder nor to be had from the hub: {reason}"
        ) from error


def _answers(repository: str, revision: str) -> bool:
    """Whether the hub answers, be it by a refusal: without a network a download would try for most of a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().repo_info(repository, revision=revision, timeout=5)
    except (HfHubHTTPError, HFValidationError):
        return True
    except Exception:  # no network: the HTTP library's errors differ by version
        return False
    return True


def require_safetensors(folder: Path, key: str) -> None:
    """Refuses a checkpoint without safetensors, naming the pickles found instead: they could run code when loaded."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    # What is not fetched is not seen: of a hub repository of pickles alone, only its JSON files arrive.
    held = f"only pickles ({', '.join(pickles[:3])}), which can run code when loaded" if pickles else "nothing else"
    raise ValueError(
        f"{key}={folder}: holds no *.safetensors but {held}. Give a revision that has safetensors (the hub's "
        "conversion service offers one as refs/pr/N), or convert the checkpoint once in a sandbox."
    )


def same_weights(one: Path, other: Path) -> bool:
    """Whether the tensors that two folders both hold are equal, be they adapters or whole checkpoints."""
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
