"""Which commit a branch of a hub repository stands for, so that a key names weights and not a moving branch."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 5.0  # seconds; a hub that does not answer must not hold up a command that computes keys


def resolve_commit(repository: str, revision: str, kind: Kind = "model") -> str | None:
    """The commit of ``revision``: as it was first downloaded, else as the hub has it now, else None."""
    return cached_commit(repository, revision, kind) or _hub_commit(repository, revision, kind)


def cached_commit(repository: str, revision: str, kind: Kind = "model") -> str | None:
    """The commit that the local hub cache knows a revision by; a full commit hash stands for itself.

    None for what is no repository's name, such as a folder's path.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    try:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)
        return (folder / "refs" / revision).read_text().strip()
    except (OSError, HFValidationError):
        return None


def first_commit(repository: str, revision: str, kind: Kind = "model") -> str:
    """What to download: a branch stays at the commit of its first download, so that weights and key agree."""
    return cached_commit(repository, revision, kind) or revision


@functools.lru_cache(maxsize=64)
def _hub_commit(repository: str, revision: str, kind: Kind) -> str | None:
    """One short question to the hub; None offline, without access, or for a repository that is not there."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        return HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=_TIMEOUT).sha
    except Exception:  # no network, no access, no such repository: the HTTP library's errors differ by version
        return None
