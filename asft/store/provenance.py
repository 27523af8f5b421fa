"""What a result was made with: library versions and the commit of this code."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
import sys
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "hydra-core", "vllm", "asft-lab")


def library_versions() -> dict[str, str]:
    """Versions of what can change a number, Python included."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: version for name in _LIBRARIES if (version := installed(name))}


def installed(package: str) -> str | None:
    """The version; None where it is not installed, as this package in a bare checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with ``+`` when it has changes; None elsewhere."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        run = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True)
        commit = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        return commit + ("+" if run(["git", "status", "--porcelain"]).stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None
