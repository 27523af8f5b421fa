"""The controls of every table: each side of the pair, scored as it is."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Side
from asft.methods.base import Method


@dataclass(frozen=True)
class Aligned(Method):
    """The aligned model, untouched: what fine-tuning starts from."""

    name: ClassVar[str] = "aligned"
    label: ClassVar[str] = "aligned (untouched)"
    trains: ClassVar[bool] = False
    controls: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Base(Method):
    """The base model, untouched: what safety would be without alignment."""

    name: ClassVar[str] = "base"
    label: ClassVar[str] = "base (untouched)"
    trains: ClassVar[bool] = False
    controls: ClassVar[tuple[str, ...]] = ()

    def start(self) -> Side:
        """The base side."""
        return "base"
