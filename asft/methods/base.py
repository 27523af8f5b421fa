"""A method is what differs from plain supervised fine-tuning (SFT), and nothing else.

Each hook below does nothing, so ``sft.py`` is empty and every other method overrides one or two. A method is
a frozen dataclass: its fields are its hyperparameters, set from its YAML and part of the cell's key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Plugin, Side

if TYPE_CHECKING:  # heavy, or would be circular; a method imports what it uses inside its hooks
    from peft import PeftModel
    from torch.utils.data import Sampler
    from transformers import PreTrainedModel, TrainerCallback

    from asft.config import AttackConfig, Settings
    from asft.data.rows import Row
    from asft.data.sources import Data
    from asft.models.pair import Pair


@dataclasses.dataclass(frozen=True, slots=True)
class FineTune:
    """A fine-tune whose weights somebody needs: what it does otherwise than the cell that asks for it.

    Attributes:
        method: how it is trained.
        attack, seed: None are the asking cell's own.
    """

    method: Method
    attack: AttackConfig | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """What a hook may look at.

    Attributes:
        cell: the configuration.
        pair: the base and the aligned model.
        data: the pools of rows.
        anchors: the folder where anchors are cached.
        required: the weights of the cell that the method requires, where it names one.
    """

    cell: Settings
    pair: Pair
    data: Data
    anchors: Path
    required: Path | None = None


@dataclass(frozen=True)
class Method(Plugin):
    """Base class of all methods; see the module's docstring.

    Class attributes:
        name: the name in configurations and keys, e.g. ``safe_lora``.
        label: the name in tables, as the field writes it, e.g. ``Safe LoRA``.
        trains: False for the controls that score a checkpoint as it is.
        parent: a method whose finished adapter this one takes, so that its training is never repeated.
    """

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    parent: ClassVar[type[Method] | None] = None

    def check(self, cell: Settings) -> None:
        """Raises ValueError when the method cannot run under this cell's settings."""

    def safety_rows(self, cell: Settings) -> int:
        """How many rows of the data's safety pool the method cannot do without."""
        return 0

    def start(self) -> Side:
        """The checkpoint that training begins from."""
        return "aligned"

    def requires(self, cell: Settings) -> FineTune | None:
        """The fine-tune whose weights this one needs: by default the parent's, if there is a parent."""
        return FineTune(self.parent()) if self.parent else None

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """Adds, removes or marks training rows."""
        return list(rows)

    def order(self, rows: Sequence[Row], ctx: Context) -> Sampler[int] | None:
        """Which row comes when; None is a new permutation an epoch."""
        return None

    def callbacks(self, model: PeftModel | PreTrainedModel, ctx: Context) -> list[TrainerCallback]:
        """What acts during training."""
        return []

    def finish(self, model: PeftModel | PreTrainedModel, ctx: Context) -> dict[str, Any]:
        """Changes the trained adapter in place; what it returns is kept in the manifest."""
        return {}

    def system_prompt(self, ctx: Context) -> str:
        """A system text put before every query at inference; empty for most methods."""
        return ""
