"""Adapters with other factors than those that were trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from asft.anchor.saved_adapter import SavedAdapter

    Factors = tuple[Tensor, Tensor]


def with_factors(model: PeftModel, factors: Mapping[str, Factors]) -> PeftModel:
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
    alpha = alpha_of(rank, config.r, config.lora_alpha, rank_stabilised=config.use_rslora)
    made = get_peft_model(model.unload(), dataclasses.replace(config, r=rank, lora_alpha=alpha, inference_mode=False))
    with torch.no_grad():
        for factor in lora_factors(made):
            for weight, given in zip((factor.a, factor.b), factors[factor.name], strict=True):
                weight.copy_(given)
    return made


def alpha_of(rank: int, r: int, alpha: float, *, rank_stabilised: bool) -> float:
    """The α with which an adapter of another rank has the scale of one of rank r: α/r, or α/√r."""
    return float(alpha * (rank / r) ** (0.5 if rank_stabilised else 1))


def merged(
    updates: Mapping[str, Factors],
    scales: Mapping[str, float],
    other: SavedAdapter,
    shares: Callable[[str], tuple[float, float]],
    merge: Callable[[Factors, Factors, float, float], Factors] | None = None,
) -> dict[str, Factors]:
    """first · s·BA + second · s'·B'A' of every module, as factors at the scale s of ``updates``.

    Args:
        updates: A and B by module, with ``scales`` s.
        other: the adapter (B', A'), which has the same modules.
        shares: first and second of a module.
        merge: :func:`by_update`, the default, or :func:`by_factor`.
    """
    found = {}
    for name, (a, b) in updates.items():
        second = other.tensors[other.keys[name].a].to(a), other.tensors[other.keys[name].b].to(b)
        mine, others = shares(name)
        found[name] = (merge or by_update)((a, b), second, mine, others * (other.scaling(name) / scales[name]))
    return found


def by_update(task: Factors, safe: Factors, first: float, second: float) -> Factors:
    """(A, B) with BA = first · B₁A₁ + second · B₂A₂, of both ranks together."""
    import torch

    return torch.cat([task[0], safe[0]]), torch.cat([first * task[1], second * safe[1]], dim=1)


def by_factor(task: Factors, safe: Factors, first: float, second: float) -> Factors:
    """√first · (A₁, B₁) + √second · (A₂, B₂)."""
    return first**0.5 * task[0] + second**0.5 * safe[0], first**0.5 * task[1] + second**0.5 * safe[1]
