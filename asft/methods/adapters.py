"""Adapters with other factors than those that were trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor


def with_factors(model: PeftModel, factors: Mapping[str, tuple[Tensor, Tensor]]) -> PeftModel:
    """A new adapter on the model under ``model``'s, of the rank that the factors have and with the same scale α/r.

    ``model``'s own adapter is taken off.

    Args:
        factors: A and B of every adapted module, by the names of :func:`asft.anchor.binding.lora_factors`.

    Raises:
        ValueError: when a module has no factors, or the ranks differ.
    """
    import torch
    from peft import get_peft_model

    from asft.anchor.binding import lora_factors

    config = model.peft_config[model.active_adapter]
    names, ranks = {factor.name for factor in lora_factors(model)}, {len(a) for a, _ in factors.values()}
    if names != set(factors) or len(ranks) != 1:
        raise ValueError(
            f"an adapter needs factors of one rank for {sorted(names)}, not {sorted(ranks)} of {sorted(factors)}"
        )
    (rank,) = ranks
    alpha = config.lora_alpha * (rank / config.r) ** (0.5 if config.use_rslora else 1)
    made = get_peft_model(model.unload(), dataclasses.replace(config, r=rank, lora_alpha=alpha, inference_mode=False))
    with torch.no_grad():
        for factor in lora_factors(made):
            for weight, given in zip((factor.a, factor.b), factors[factor.name], strict=True):
                weight.copy_(given)
    return made
