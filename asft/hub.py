"""Which commit of a hub repository is used: a branch stays where it was when it was first downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
