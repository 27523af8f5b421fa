"""Safe LoRA: project the LoRA updates that point away from the alignment direction (methods.md §5).

Per module, with V = W_aligned − W_base and Ĉ = VVᵀ/‖V‖ (never formed):

    M = Ĉ B = V(VᵀB)/‖V‖            the projected B
    c = cos(vec(MA), vec(BA)) = tr(MᵀB·AAᵀ) / √[tr(MᵀM·AAᵀ) · tr(BᵀB·AAᵀ)],  rounded to 5 decimals

``threshold`` mode projects modules with c ≤ τ; ``number`` mode takes for τ the K-th smallest c, so that ties
project more than K modules, as in the authors' code. A is never changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from asft.anchor.binding import lora_factors
from asft.anchor.difference import CheckpointPair
from asft.anchor.names import stem

Mode = Literal["number", "threshold"]
DECIMALS = 5


@dataclass(frozen=True, slots=True)
class ProjectedModule:
    """What Safe LoRA did to one module.

    Attributes:
        name: base module name.
        cosine: c, rounded to 5 decimals; 0 where ĈB is zero, and None where the update BA itself is zero and has
            no direction: such a module is never selected and does not count among the K smallest.
        projected: whether B was replaced by ĈB.
        norm_before: ‖BA‖.
        norm_after: ‖BA‖ of what the module holds now.
    """

    name: str
    cosine: float | None
    projected: bool
    norm_before: float
    norm_after: float


@dataclass(frozen=True, slots=True)
class SafeLoraReport:
    """What Safe LoRA did to an adapter.

    Attributes:
        mode: how modules were selected.
        threshold: the cosine at or below which they were: τ, or the K-th smallest c; None if no module had an
            update to select.
        modules: one entry per adapted module.
    """

    mode: Mode
    threshold: float | None
    modules: tuple[ProjectedModule, ...]

    @property
    def projected(self) -> tuple[str, ...]:
        """Names of the modules that were projected."""
        return tuple(module.name for module in self.modules if module.projected)

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-ready values."""
        return asdict(self)


class Update(NamedTuple):
    """One module's LoRA factors: A (r×i) and B (o×r)."""

    a: Tensor
    b: Tensor


class _Candidate(NamedTuple):
    projected_b: Tensor
    cosine: float | None
    norm_before: float
    norm_after: float


def safe_lora(
    model: nn.Module,
    base: str | Path,
    aligned: str | Path,
    *,
    mode: Mode = "number",
    number: int = 10,
    threshold: float = 0.5,
) -> SafeLoraReport:
    """Project the active LoRA adapter of ``model`` in place.

    Args:
        model: a PEFT model with plain LoRA.
        base: checkpoint before alignment (directory of safetensors, or one file).
        aligned: checkpoint after alignment.
        mode: ``number`` or ``threshold``.
        number: K of ``number`` mode; no effect in the other.
        threshold: τ of ``threshold`` mode; no effect in the other.

    Raises:
        ValueError: unknown mode, K above the number of modules, unequal shapes, or an unsupported
            adapter.
    """
    factors = {factor.name: factor for factor in lora_factors(model)}
    updates = {name: Update(factor.a.detach(), factor.b.detach()) for name, factor in factors.items()}
    projected, report = project(updates, base, aligned, mode=mode, number=number, threshold=threshold)
    with torch.no_grad():
        for name, b in projected.items():
            factors[name].b.copy_(b)
    return report


def project(
    updates: Mapping[str, Update],
    base: str | Path,
    aligned: str | Path,
    *,
    mode: Mode,
    number: int,
    threshold: float,
) -> tuple[dict[str, Tensor], SafeLoraReport]:
    """The new B of every selected module, and the report; inputs are left as they are.

    Args:
        updates: LoRA factors by base module name.

    Raises:
        ValueError: as :func:`safe_lora`.
    """
    check_selection(mode, number, threshold, len(updates))
    candidates = dict(_candidates(updates, base, aligned))
    cut = threshold if mode == "threshold" else _kth_smallest(candidates, number)
    chosen = {name for name, c in candidates.items() if cut is not None and c.cosine is not None and c.cosine <= cut}
    modules = tuple(
        ProjectedModule(
            name, c.cosine, name in chosen, c.norm_before, c.norm_after if name in chosen else c.norm_before
        )
        for name, c in candidates.items()
    )
    return {name: candidates[name].projected_b for name in chosen}, SafeLoraReport(mode, cut, modules)


def check_selection(mode: Mode, number: int, threshold: float, modules: int) -> None:
    """Raise ValueError for a selection that cannot be made among ``modules`` modules."""
    if mode not in ("number", "threshold"):
        raise ValueError(f"mode={mode!r} is unknown; allowed: number, threshold.")
    if mode == "number" and not 1 <= number <= modules:
        raise ValueError(f"number={number} must lie between 1 and {modules}, the number of adapted modules.")
    if mode == "threshold" and not -1 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie between -1 and 1: it is compared with a cosine.")


def _candidates(
    updates: Mapping[str, Update], base: str | Path, aligned: str | Path
) -> Iterator[tuple[str, _Candidate]]:
    pair = CheckpointPair(base, aligned, [stem(name) for name in updates])
    names = {stem(name): name for name in pair.modules}
    for name, update in updates.items():
        v = pair.difference(names[stem(name)], update.b.device)
        shape = (update.b.shape[0], update.a.shape[1])
        if shape != tuple(v.shape):
            raise ValueError(
                f"Module {name!r}: the adapter's update is {shape[0]}×{shape[1]}, the checkpoints' weight "
                f"{v.shape[0]}×{v.shape[1]}: give the checkpoints that the adapter was trained on."
            )
        yield name, _candidate(v, update)


def _candidate(v: Tensor, update: Update) -> _Candidate:
    b, a = update.b.to(torch.promote_types(v.dtype, update.b.dtype)), update.a.double()
    v = v.to(b.dtype)
    m = v @ (v.mT @ b) / torch.linalg.matrix_norm(v)
    k = a @ a.mT
    before, after = (math.sqrt(max(_inner(x, x, k), 0.0)) for x in (b, m))
    if before == 0:
        return _Candidate(m, None, before, after)
    cosine = _inner(m, b, k) / (after * before) if after > 0 else 0.0
    return _Candidate(m, round(cosine, DECIMALS), before, after)


def _inner(x: Tensor, y: Tensor, k: Tensor) -> float:
    """⟨XA, YA⟩ = tr(XᵀY·AAᵀ) in float64."""
    return float(((x.double().mT @ y.double()) * k).sum())


def _kth_smallest(candidates: Mapping[str, _Candidate], number: int) -> float | None:
    cosines = sorted(c.cosine for c in candidates.values() if c.cosine is not None)
    return cosines[min(number, len(cosines)) - 1] if cosines else None
