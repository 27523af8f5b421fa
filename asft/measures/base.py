"""The contract of a measure, and how it names the directions in weight space that it looks along."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Plugin
from asft.methods.base import FineTune
from asft.methods.sft import SFT
from asft.models.checkpoints import checkpoint_identity

if TYPE_CHECKING:  # heavy, or would be circular
    import torch
    from transformers import PreTrainedModel

    from asft.config import Settings
    from asft.measures.directions import Direction, Weights
    from asft.models.pair import Pair

Score = Callable[[], float]
LEARNED = {"harmful": 1.0, "benign": 0.0}  # poison ratio of the fine-tune whose update the direction is
NAMED = {"alignment", "random", *LEARNED}


@dataclasses.dataclass(frozen=True)
class MeasureContext:
    """What a measure may use.

    Attributes:
        pair: the base and the aligned model.
        updates: adapters of the fine-tunes that :meth:`Measure.requires` named, by direction.
        device: where tensors go.
        score: makes a function that returns HS in percent of a model as it stands, over the first ``prompts``.
    """

    cell: Settings
    pair: Pair
    updates: dict[str, Path]
    device: torch.device
    score: Callable[[PreTrainedModel, int], Score]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A measure's numbers by name (its ``headline`` among them), and JSON-able arrays for the plots.

    ``interval`` is the range around the headline that the measure itself knows, and what it is.
    """

    values: dict[str, float]
    interval: tuple[float, float, str] | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Measure(Plugin):
    """Base class. A measure is a frozen dataclass whose fields are part of the result's key.

    Class attributes:
        headline: the value that a table shows.
        quantity: what it is, in a few words for a table's heading.
        asks: whether the model is asked malicious prompts, so that judge and prompts belong to the key.
    """

    headline: ClassVar[str] = ""
    quantity: ClassVar[str] = ""
    asks: ClassVar[bool] = True

    def directions(self) -> tuple[str, ...]:
        """The directions looked along, as written in the configuration."""
        raise TypeError(f"{type(self).__name__} must define directions()")

    def measure(self, ctx: MeasureContext) -> Measured:
        """Does the work."""
        raise TypeError(f"{type(self).__name__} must define measure()")

    def describe(self) -> str:
        """The measure in a few words, for log lines."""
        return f"{self.name} {' × '.join(self.directions())}"

    def notes(self) -> list[str]:
        """How its numbers are made, in sentences for a report."""
        return []

    def check(self, cell: Settings) -> None:
        """Raises ValueError when the measure cannot run under this cell's settings."""
        if getattr(cell.model, "quantization", None):
            raise ValueError(f"measure={self.name}: compares and moves the weights; use model.quantization=null")
        for direction in self.directions():
            if direction in LEARNED and cell.training.name != "lora":
                raise ValueError(
                    f"training={cell.training.name}: the {direction} direction is a LoRA update; use training=lora"
                )
            if direction == "harmful" and cell.attack.source == "none":
                raise ValueError("attack=none: the harmful direction is learned from harmful rows; name a source")
            if direction not in NAMED and not _is_folder(direction):
                raise ValueError(
                    f"measure={self.name}: {direction!r} is no direction; allowed: alignment, harmful, benign, random, "
                    "or the folder of a LoRA adapter or a checkpoint"
                )

    def requires(self, cell: Settings) -> dict[str, FineTune]:
        """The fine-tunes whose updates are directions: plain SFT on ``attack.n`` rows, all harmful or all benign."""
        return {
            direction: FineTune(SFT(), dataclasses.replace(cell.attack, p=LEARNED[direction], mix="replace"))
            for direction in self.directions()
            if direction in LEARNED
        }


def direction_of(name: str, weights: Weights, ctx: MeasureContext, seed: int) -> Direction:
    """The direction of that name, neither normalised nor orthogonalised; ``seed`` draws a random one."""
    from asft.measures import directions

    if name == "random":
        return directions.random_direction(weights, seed)
    if name == "alignment":
        return directions.difference(weights, ctx.pair.base, ctx.pair.aligned)
    if name in ctx.updates:
        return directions.adapter_update(weights, ctx.updates[name])
    return directions.from_folder(weights, Path(name).expanduser(), ctx.pair.aligned)


def folder_identities(measure: Measure) -> dict[str, Any]:
    """What tells the folders that a measure's directions name from others, for its key."""
    folders = {name: Path(name).expanduser() for name in measure.directions() if _is_folder(name)}
    return {name: checkpoint_identity(folder) for name, folder in folders.items()}


def _is_folder(direction: str) -> bool:
    return direction not in NAMED and any(Path(direction).expanduser().glob("*.safetensors"))
