"""LoX: extrapolates alignment along its leading directions before the fine-tune (arXiv:2506.15606).

W ← W_a + α T_k(W_a − W_b) for every weight of two or more dimensions, embeddings and output head included; T_k keeps
the k largest singular values, all of them for k = 0. What has one dimension stays.

Differences and sums are float32: the reference takes them in bfloat16, where a small difference is lost; how many
entries change in the stored format is in the manifest. A pair whose sides are equal is an error. Nothing says that the
model still speaks: ask it at p = 0 first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Method, Start, Strength

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from asft.models.pair import Pair


@dataclass(frozen=True)
class Extrapolated(Start):
    """The aligned model moved further away from the base model.

    Attributes:
        alpha: α.
        rank: k.
    """

    name: ClassVar[str] = "extrapolated"
    alpha: float = 1.0
    rank: Annotated[int, Field(ge=0)] = 0

    def make(self, pair: Pair, folder: Path, device: torch.device, required: Mapping[str, Path]) -> dict[str, Any]:
        """Writes it, in the pair's number format."""
        import torch

        from asft.models.pair import load_like, load_model

        made = load_model(pair.aligned, pair.dtype, device, device_map=pair.device_map)
        base = load_like(made, pair.base)
        changed = total = 0
        with torch.no_grad():
            for weight, before in zip(made.parameters(), base.parameters(), strict=True):
                if weight.dim() < 2:
                    continue
                if weight.shape != before.shape:
                    raise ValueError(f"method=lox: weights of shapes {tuple(before.shape)} and {tuple(weight.shape)}")
                after = weight.float()
                moved = (after + self.alpha * leading(after - before.float(), self.rank)).to(weight.dtype)
                changed, total = changed + int((moved != weight).sum()), total + weight.numel()
                weight.copy_(moved)
        made.save_pretrained(folder)
        return {"changed": changed, "entries": total}


@dataclass(frozen=True)
class LoX(Method):
    """Plain SFT from the extrapolated model.

    Attributes:
        alpha: α; 1 in the authors' script.
        rank: k; 0, all directions, in the script.
    """

    name: ClassVar[str] = "lox"
    label: ClassVar[str] = "LoX"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.alpha", "α", 0.1, 2, "linear"),)
    alpha: float = 1.0
    rank: Annotated[int, Field(ge=0)] = 0

    def start(self) -> Start:
        """The extrapolated checkpoint."""
        return Extrapolated(self.alpha, self.rank)


def leading(change: Tensor, rank: int) -> Tensor:
    """T_k of a matrix (o×i), or of what its first dimension and all others together make one; rank 0 is all of it."""
    import torch

    if not rank or rank >= min(change.flatten(1).shape):
        return change
    u, sizes, vt = torch.linalg.svd(change.flatten(1), full_matrices=False)
    kept: Tensor = (u[:, :rank] * sizes[:rank]) @ vt[:rank]
    return kept.view_as(change)
