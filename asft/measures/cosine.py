"""Table 1: the cosine between the alignment direction and the update of a fine-tune, against random updates.

The paper finds |cos| near 6e-4 for updates learned from harmful rows and a constant 8.5e-3 for "random" ones. A
matrix of N independent Gaussians has E|cos| ≈ √(2/πN) with any fixed matrix, far below 8.5e-3 for a real model, so its
random baseline is not explained. Two baselines are given here: such a matrix, and, since a LoRA update has rank r,
random factors of that rank.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import Seed
from asft.measures.base import Measure, MeasureContext, Measured, direction_of

if TYPE_CHECKING:  # torch takes seconds to load, and whoever only looks at an experiment needs none
    from asft.measures.directions import Direction


@dataclass(frozen=True)
class Cosine(Measure):
    """|cos(V, ΔW)| over the adapted modules taken as one vector.

    A random update's norm in a module follows from the module's shape, not from the real update's norm there: where V
    and the real update are both large in the same few modules, ``p_random`` is too small.

    Attributes:
        update: ``harmful`` or ``benign``: ΔW = sBA of a plain fine-tune on ``attack.n`` such rows; ``random``:
            BA with independent Gaussian factors.
        draws: random updates of the fine-tune's rank behind the baseline.
        seed: draws them.
    """

    name: ClassVar[str] = "cosine"
    headline: ClassVar[str] = "abs_cos"
    quantity: ClassVar[str] = "|cos| with the alignment direction; in brackets 95% of the random updates"
    asks: ClassVar[bool] = False
    update: Literal["harmful", "benign", "random"] = "harmful"
    draws: Annotated[int, Field(ge=20)] = 1000
    seed: Seed = 123

    def directions(self) -> tuple[str, ...]:
        return "alignment", self.update

    def notes(self) -> list[str]:
        return [
            "All adapted modules are one vector; the update is sBA. The paper does not say how its random direction is "
            "drawn. Here it is BA with Gaussian factors of the fine-tune's rank; `gaussian_abs_cos` is the exact mean "
            "for a full Gaussian vector, `p_random` the add-one estimate of the share of random updates with at least "
            "that |cos|."
        ]

    def measure(self, ctx: MeasureContext) -> Measured:
        """The cosine, or for ``random`` the mean over the draws and the range of 95% of them."""
        from asft.measures.directions import cosine, weights_of

        training = ctx.cell.training
        weights = weights_of(ctx.pair.load("aligned", ctx.device), training.target_modules)
        alignment = direction_of("alignment", weights, ctx, self.seed)
        if not any(tensor.any() for tensor in alignment.values()):
            raise ValueError("the aligned model and its base are equal in every adapted module: there is no direction")
        null = random_cosines(alignment, training.rank, self.draws, self.seed)
        if self.update == "random":
            ordered = sorted(map(abs, null))
            low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.025, 0.975))
            size = sum(tensor.numel() for tensor in alignment.values())
            values = {"abs_cos": fmean(map(abs, null)), "gaussian_abs_cos": gaussian_mean(size), "parameters": size}
            return Measured(values, (low, high, f"95% of {self.draws} random updates"), {"null": null})
        update = direction_of(self.update, weights, ctx, self.seed)
        value = cosine(alignment, update)
        per_module = {name: cosine({name: alignment[name]}, {name: update[name]}) for name in update}
        larger = sum(abs(other) >= abs(value) for other in null)
        values = {
            "abs_cos": abs(value),
            "cos": value,
            "module_abs_cos": fmean(map(abs, per_module.values())),
            # The add-one estimate of a permutation test: never 0.
            "p_random": (1 + larger) / (1 + len(null)),
        }
        return Measured(values, details={"modules": per_module, "null": null})


def random_cosines(direction: Direction, rank: int, draws: int, seed: int) -> list[float]:
    """Cosines between ``direction`` and ``draws`` updates BA, B (o×rank) and A (rank×i) standard Gaussian.

    All of a draw's modules make one vector. BA is never formed: ⟨V, BA⟩ = ⟨BᵀV, A⟩ and ‖BA‖² = ⟨BᵀB, AAᵀ⟩.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    inner, squared = torch.zeros(draws, dtype=torch.float64), torch.zeros(draws, dtype=torch.float64)
    for tensor in direction.values():
        v = tensor.double()
        for draw in range(draws):
            b, a = (
                torch.randn(shape, generator=generator, dtype=torch.float64).to(v.device)
                for shape in ((v.shape[0], rank), (rank, v.shape[1]))
            )
            inner[draw] += ((b.T @ v) * a).sum().cpu()
            squared[draw] += ((b.T @ b) * (a @ a.T)).sum().cpu()
    norm = math.sqrt(sum(float((tensor.double() ** 2).sum()) for tensor in direction.values()))
    cosines: list[float] = (inner / (squared.sqrt() * norm)).tolist()
    return cosines


def gaussian_mean(size: int) -> float:
    """E|cos| of a fixed vector and one of ``size`` independent Gaussians: Γ(N/2) / (√π Γ((N+1)/2)), exact."""
    return math.exp(math.lgamma(size / 2) - math.lgamma((size + 1) / 2)) / math.sqrt(math.pi)
