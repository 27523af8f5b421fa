"""A method is what differs from plain supervised fine-tuning (SFT), and nothing else.

Each hook below does nothing, so ``sft.py`` is empty and every other method overrides one or two. A method is
a frozen dataclass: its fields are its hyperparameters, set from its YAML and part of the cell's key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic.dataclasses import dataclass

from asft.config import Plugin, Side

if TYPE_CHECKING:  # heavy, or would be circular; a method imports what it uses inside its hooks
    import torch
    from peft import PeftModel
    from torch import Tensor
    from torch.utils.data import Sampler
    from transformers import PreTrainedModel, TrainerCallback

    from asft.config import AttackConfig, Settings, TrainingConfig
    from asft.data.base import Data
    from asft.data.rows import Row
    from asft.data.templates import Encoded
    from asft.models.pair import Pair

    Model: TypeAlias = PeftModel | PreTrainedModel
    TokenWeights: TypeAlias = Callable[[Mapping[str, Any], Tensor], Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class FineTune:
    """A fine-tune whose weights somebody needs: what it does otherwise than the cell that asks for it.

    Attributes:
        method: how it is trained.
        attack, seed, training: None are the asking cell's own.
    """

    method: Method
    attack: AttackConfig | None = None
    seed: int | None = None
    training: TrainingConfig | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Strength:
    """A number that says how strongly a method acts; a fair comparison of methods sweeps it.

    Attributes:
        key: its key in the configuration, e.g. ``method.lam``.
        symbol: as tables write it.
        low, high: the range worth sweeping.
        scale: how to space values over the range.
        safer: the end of the range that should give the safer model.
        off: the value at which the method's own term does nothing; at any other, doing nothing is an error.
    """

    key: str
    symbol: str
    low: float
    high: float
    scale: Literal["linear", "log"]
    safer: Literal["low", "high"] = "high"
    off: float | None = None


@dataclass(frozen=True)
class Start(Plugin):
    """A checkpoint to begin from that is neither side of the pair but made from it: once, for all cells that share it.

    Its name, code and fields are the key of its stage. What it writes is a whole checkpoint in safetensors.

    Class attributes:
        side: the side of the pair that it edits.
    """

    side: ClassVar[Side] = "aligned"

    def requires(self, cell: Settings) -> Mapping[str, FineTune]:
        """The fine-tunes that it is made of, by names of its own."""
        return {}

    def make(self, pair: Pair, folder: Path, device: torch.device, required: Mapping[str, Path]) -> dict[str, Any]:
        """Writes the checkpoint into ``folder``; what it returns is kept in the manifest.

        Args:
            required: the folders of the weights that :meth:`requires` names, and of those that the method requires.
        """
        raise TypeError(f"{type(self).__name__} must define make()")


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """What is left when a method is done.

    Attributes:
        told: JSON-able facts for the manifest.
        model: what is saved in place of the model that was handed over, e.g. an adapter of another rank (see
            :func:`asft.methods.adapters.with_factors`); None is that model.
    """

    told: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: Model | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """What a hook may look at.

    Attributes:
        cell: the configuration.
        pair: the base and the aligned model.
        data: the pools of rows.
        anchors: the folder where anchors are cached.
        start: the folder of the checkpoint that training begins from.
        required: the weights of the fine-tunes that the method requires, by its names for them.
        defender: harmful rows for the defender, as many as :meth:`Method.defender_rows` asks for.
        encoded: the training rows as token ids, for the hooks after :meth:`Method.mixture`.
        kept: what a hook leaves for a later one of the same training.
    """

    cell: Settings
    pair: Pair
    data: Data
    anchors: Path
    start: Path
    required: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    defender: Sequence[Row] = ()
    encoded: Sequence[Encoded] = ()
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Method(Plugin):
    """Base class of all methods; see the module's docstring.

    Class attributes:
        name: the name in configurations and keys, e.g. ``safe_lora``.
        label: the name in tables, as the field writes it, e.g. ``Safe LoRA``.
        trains: False for the controls that score a checkpoint as it is.
        needs_training: ``lora`` or ``full`` where it acts on adapters, or on full weights, alone.
        strengths: the numbers that say how strongly it acts.
        controls: names of the plainest methods that could do the same, the plainest first; it must beat them.
        safety_field, defender_field: the fields that ``safety_rows`` and ``defender_rows`` are, unless overridden.
    """

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    needs_training: ClassVar[str] = ""
    strengths: ClassVar[tuple[Strength, ...]] = ()
    controls: ClassVar[tuple[str, ...]] = ("sft",)  # at a lower learning rate, or for fewer epochs
    safety_field: ClassVar[str] = ""
    defender_field: ClassVar[str] = ""

    def check(self, cell: Settings) -> None:
        """Raises ValueError when the method cannot run under this cell's settings."""
        if self.needs_training not in ("", cell.training.name):
            what = "LoRA adapters" if self.needs_training == "lora" else "full weights"
            raise ValueError(
                f"training={cell.training.name}: method={self.name} acts on {what}; use training={self.needs_training}"
            )

    def check_modules(self, modules: Mapping[str, tuple[int, int]], cell: Settings) -> None:
        """Raises ValueError, before anything trains, where the model's target modules do not allow the settings.

        Args:
            modules: rows and columns of each one's weight as it is stored, by its name.
        """

    def check_rows(self, rows: Sequence[Row], data: Data, cell: Settings) -> None:
        """Raises ValueError, before anything trains, where the data hold too few for the method beside ``rows``."""
        if (count := self.safety_rows(cell)) > len(data.safety):
            raise ValueError(
                f"method={self.name}: needs {count} safety rows with attack.n={cell.attack.n}; the data hold "
                f"{len(data.safety)}. Lower the method's own count or attack.n."
            )

    def acts(self) -> bool:
        """False where the settings switch the method off by definition; else hooks that change nothing are an error."""
        own = {strength.key.removeprefix("method."): strength.off for strength in self.strengths}
        return all(off is None or getattr(self, name) != off for name, off in own.items())

    def safety_rows(self, cell: Settings) -> int:
        """How many rows of the data's safety pool the method cannot do without."""
        return int(getattr(self, self.safety_field)) if self.safety_field else 0

    def defender_rows(self, cell: Settings) -> int:
        """How many harmful rows of the attack's source the method needs for itself, none of them in the attack."""
        return int(getattr(self, self.defender_field)) if self.defender_field else 0

    def start(self) -> Side | Start:
        """The checkpoint that training begins from."""
        return "aligned"

    def requires(self, cell: Settings) -> Mapping[str, FineTune]:
        """The fine-tunes whose weights this one needs, by names of its own."""
        return {}

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """Adds, removes or marks training rows."""
        return list(rows)

    def order(self, rows: Sequence[Row], ctx: Context) -> Sampler[int] | None:
        """Which row comes when; None is a new permutation an epoch."""
        return None

    def prepare(self, model: Model, ctx: Context) -> None:
        """Edits the new adapter or the frozen weights before training.

        An adapter is saved without the weights that it lies on: a method that edits frozen ones must return from
        :meth:`finish` an adapter to the unedited start that computes the same.
        """

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """What acts during training. A callback whose attribute ``acted`` is false at the end is an error."""
        return []

    def token_weights(self, model: Model, ctx: Context) -> TokenWeights | None:
        """A function of batch and logits that gives each label's weight in the loss, a tensor like ``labels``.

        The batch holds ``input_ids``, ``attention_mask``, ``labels`` and the ``row_ids`` of its rows. The logits are
        those about its labels, (labels, vocabulary), row by row; a label at a row's first token has none. No gradient
        flows through the weights.
        """
        return None

    def finish(self, model: Model, ctx: Context) -> Finished:
        """Changes the trained weights, in place or by returning others."""
        return Finished()

    def system_prompt(self, ctx: Context) -> str:
        """A system text put before every query at inference; empty for most methods."""
        return ""

    def overrides(self, hook: str) -> bool:
        """Whether the method's class defines a hook of its own."""
        return getattr(type(self), hook) is not getattr(Method, hook)
