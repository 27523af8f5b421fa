"""Repair a PEFT LoRA adapter on disk with Safe LoRA: a valid adapter and a report beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from asft.anchor.projection import Mode, SafeLoraReport, Update, project
from asft.anchor.saved_adapter import CONFIG_NAME, WEIGHTS_NAME, read_adapter

REPORT_NAME = "safe_lora.json"


def project_adapter(
    adapter: str | Path,
    base: str | Path,
    aligned: str | Path,
    out: str | Path,
    *,
    mode: Mode = "number",
    number: int = 10,
    threshold: float = 0.5,
) -> SafeLoraReport:
    """Write a projected copy of ``adapter`` to ``out``, with ``safe_lora.json`` beside it.

    All other tensors and settings are kept, and B keeps its stored type, so ``PeftModel.from_pretrained``
    reads the result like the original.

    Args:
        adapter: directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: checkpoint before alignment.
        aligned: checkpoint after alignment.
        out: a directory that does not exist yet or is empty.
        mode: ``number`` or ``threshold``, see :mod:`asft.anchor.projection`.
        number: K of ``number`` mode.
        threshold: τ of ``threshold`` mode.

    Raises:
        ValueError: ``out`` in use, or as :func:`asft.anchor.saved_adapter.read_adapter` and
            :func:`asft.anchor.projection.safe_lora`.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"out={str(target)!r} exists and is not an empty directory: give a new one.")
    saved = read_adapter(adapter)
    tensors = dict(saved.tensors)
    updates = {name: Update(tensors[keys.a], tensors[keys.b]) for name, keys in saved.keys.items()}
    projected, report = project(updates, base, aligned, mode=mode, number=number, threshold=threshold)
    for name, b in projected.items():
        key = saved.keys[name].b
        tensors[key] = b.to(tensors[key].dtype).contiguous()
    target.mkdir(parents=True, exist_ok=True)
    with safe_open(saved.path / WEIGHTS_NAME, "pt") as handle:
        save_file(tensors, target / WEIGHTS_NAME, metadata=handle.metadata())
    shutil.copyfile(saved.path / CONFIG_NAME, target / CONFIG_NAME)
    (target / REPORT_NAME).write_text(json.dumps(report.to_dict(), indent=1))
    return report
