"""What makes up a checkpoint's folder; apart from :mod:`asft.models.pair`, since keys need it without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Everything of a checkpoint that can change an answer; pickles are not among it.
CHECKPOINT_FILES = ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja")


def holds_adapter(folder: Path) -> bool:
    """Whether a trained folder holds an adapter to a checkpoint, and not a checkpoint itself."""
    return (folder / "adapter_config.json").exists()


def checkpoint_identity(folder: Path) -> dict[str, Any]:
    """What tells a local checkpoint from another without reading its weights: names, sizes, times, headers."""
    files = sorted(file for pattern in CHECKPOINT_FILES for file in folder.glob(pattern))
    stats = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    config = folder / "config.json"
    return {"files": stats, "config": json.loads(config.read_text()) if config.exists() else {}}
