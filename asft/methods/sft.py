"""Plain supervised fine-tuning of the aligned model: the undefended baseline (methods.md §1)."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.methods.base import Method


@dataclass(frozen=True)
class SFT(Method):
    """LoRA on the task rows with no defence at all."""

    name: ClassVar[str] = "sft"
    label: ClassVar[str] = "SFT"
