"""The contract of a generation backend: greedy answers to prompts that are token ids already.

Templates, stop tokens, and what becomes of the text are the same whatever computes the tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic.dataclasses import dataclass

from asft.config import Plugin
from asft.models.checkpoints import holds_adapter
from asft.store.meter import release_memory
from asft.store.partial import PartialRows

if TYPE_CHECKING:  # heavy, or would be circular
    import torch

    from asft.config import Dtype, Settings, Side
    from asft.models.pair import Pair


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """The weights that answer.

    Attributes:
        start: the side, or the checkpoint made from the pair, that ``trained`` started from or that answers as it is.
        trained: an adapter's folder or a fully tuned checkpoint's; None for an untouched side.
        device: where transformers puts the model.
        dtype: number format; None is the pair's own.
        positions: tokens of the longest prompt and its answer together.
        ends: tokens that end an answer beside those that the checkpoint and the tokenizer name.
        merge: whether transformers adds an adapter to its start's weights.
    """

    pair: Pair
    start: Side | Path
    trained: Path | None
    device: torch.device
    dtype: Dtype | None = None
    positions: int = 0
    ends: tuple[int, ...] = ()
    merge: bool = True

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder, where one was trained."""
        return self.trained if self.trained and holds_adapter(self.trained) else None

    @property
    def checkpoint(self) -> Path:
        """The whole model's folder: under the adapter, fully tuned, or untouched."""
        if self.trained is None or self.adapter is not None:
            return self.pair.path(self.start)
        return self.trained


class Answerer(Protocol):
    """Weights that are loaded and can be asked; ``told`` is what there is to tell in the stage's manifest."""

    told: dict[str, Any]

    def answer(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, kept: PartialRows) -> list[str]:
        """Greedy answers to token ids, in order, each up to its end token, special tokens removed and stripped.

        Answers that ``kept`` holds are not asked for again; new ones are added to it as they come.
        """

    def close(self) -> None:
        """Gives the memory back."""


class Chooser(Answerer, Protocol):
    """Weights that can also say which of several answers they hold most likely."""

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]) -> list[int]:
        """The place of the likeliest option of each prompt."""


@dataclass(frozen=True)
class Backend(Plugin):
    """Base class. A backend is a frozen dataclass, chosen by ``backend=NAME``.

    Class attributes:
        on_gpu_alone: whether it needs a GPU.
        measures: whether a measure can ask by it while it moves the weights about.
    """

    on_gpu_alone: ClassVar[bool] = False
    measures: ClassVar[bool] = True

    def check_cell(self, cell: Settings) -> None:
        """Raises ValueError for settings that the backend cannot serve."""

    def check(self) -> None:
        """Raises ValueError when the backend cannot work here; called before anything is trained for it."""

    def open(self, weights: Weights, batch_size: int) -> Answerer:
        """Loads the weights; ``batch_size`` prompts go at once where the backend does not batch by itself."""
        raise TypeError(f"{type(self).__name__} must define open()")


@dataclass(frozen=True)
class HFBackend(Backend):
    """transformers' ``generate``."""

    name: ClassVar[str] = "hf"

    def open(self, weights: Weights, batch_size: int) -> Chooser:
        return _Model(weights, batch_size)


class _Model:
    def __init__(self, weights: Weights, batch_size: int) -> None:
        self.tokenizer = weights.pair.tokenizer()
        self.model = weights.pair.finetuned(
            weights.trained, weights.start, weights.device, weights.dtype, merge=weights.merge
        )
        self.batch_size, self.told, self.ends = batch_size, dict[str, Any](), weights.ends

    def answer(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, kept: PartialRows) -> list[str]:
        from asft.backends.generate import generate  # brings transformers, which a finished table needs not

        return generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=self.batch_size,
            partial=kept,
            on_smaller=lambda size: self.told.update(batch_size=size),
            ends=self.ends,
        )

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]) -> list[int]:
        from asft.backends.likelihood import choose

        return choose(self.model, self.tokenizer, prompts, options, batch_size=self.batch_size)

    def close(self) -> None:
        del self.model
        release_memory()
