"""How the embedded pair is made; apart from the making, since keys need it and torch takes seconds to load."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SIZES = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4}
# llama: multi-head attention, every adapted matrix is square; the others have narrow k_proj and v_proj.
KEY_HEADS = {"llama": 4, "llama_gqa": 2, "qwen2": 2, "gemma2": 2}


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """One training run: AdamW without weight decay, a linear warm-up to the peak, then a cosine down to zero."""

    steps: int
    learning_rate: float
    warmup: int = 20
    batch_size: int = 64
    max_grad_norm: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class BuildRecipe:
    """How the pair is made, base from random weights and aligned from base; ``vocab_size`` is an upper limit.

    The defaults give the pair that the health check is written for.
    """

    vocab_size: int = 1152
    pretraining: FitRecipe = field(default_factory=lambda: FitRecipe(steps=500, learning_rate=2e-3))
    alignment: FitRecipe = field(default_factory=lambda: FitRecipe(steps=400, learning_rate=2e-3))
