"""Which commit of a hub repository is used: a branch stays where it was when it was first downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


def first_commit(repository: str, revision: str, kind: Kind = "model") -> str:
    """What to download: a branch stays at the commit of its first download, so that weights and key agree.

    The local hub cache knows that commit; else, and for what is no repository's name, it is the revision as given.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    try:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)
        return (folder / "refs" / revision).read_text().strip() or revision
    except (OSError, HFValidationError):
        return revision
