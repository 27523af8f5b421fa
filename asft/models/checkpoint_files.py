"""What makes up a checkpoint's folder; apart from :mod:`asft.models.pair`, since keys need it without torch."""

from __future__ import annotations

from pathlib import Path

from asft.store.digest import file_digest

# Everything of a checkpoint that can change an answer; pickles are not among it.
CHECKPOINT_FILES = ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja")


def holds_adapter(folder: Path) -> bool:
    """Whether a trained folder holds an adapter to a checkpoint, and not a checkpoint itself."""
    return (folder / "adapter_config.json").exists()


def checkpoint_identity(folder: Path) -> dict[str, str]:
    """What tells a local checkpoint from another wherever it lies: the digest of each of its files."""
    files = sorted(file for pattern in CHECKPOINT_FILES for file in folder.glob(pattern))
    return {file.name: file_digest(file) for file in files}
