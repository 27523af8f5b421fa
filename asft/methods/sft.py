"""Plain supervised fine-tuning of the aligned model: the undefended baseline."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.methods.base import Method, Strength


@dataclass(frozen=True)
class SFT(Method):
    """LoRA on the task rows with no defence at all."""

    name: ClassVar[str] = "sft"
    label: ClassVar[str] = "SFT"
    strengths: ClassVar[tuple[Strength, ...]] = (
        Strength("training.lr", "η", 1e-6, 1e-3, "log", safer="low"),
        Strength("training.epochs", "epochs", 1, 20, "linear", safer="low"),
    )
    controls: ClassVar[tuple[str, ...]] = ()
