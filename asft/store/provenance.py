"""What a result was made with: library versions, the device and the commit of this code."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "hydra-core", "vllm", "asft-lab")


def library_versions() -> dict[str, str]:
    """Versions of what can change a number, Python included."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: version for name in _LIBRARIES if (version := installed(name))}


def device_used() -> str:
    """The GPU of this process, where it has used one, else the processor: numbers are rounded as these round."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return _processor()


@functools.cache
def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
