"""Answers by transformers, one padded batch after another: the default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.backends.base import Answerer, Backend, Weights
from asft.store.partial import PartialRows


@dataclass(frozen=True)
class HFBackend(Backend):
    """transformers' ``generate``; an adapter is merged into its start first."""

    name: ClassVar[str] = "hf"

    def open(self, weights: Weights, batch_size: int) -> Answerer:
        return _Model(weights, batch_size)


class _Model:
    def __init__(self, weights: Weights, batch_size: int) -> None:
        self.tokenizer = weights.pair.tokenizer()
        self.model = weights.pair.finetuned(weights.trained, weights.start, weights.device, weights.dtype)
        self.batch_size, self.told = batch_size, dict[str, Any]()

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
        )

    def close(self) -> None:
        from asft.store.meter import release_memory

        del self.model
        release_memory()
