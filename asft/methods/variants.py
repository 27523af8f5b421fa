"""AsFT with another operator in the place of Ĉ: the controls that say what the alignment direction does."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.anchor.spec import Variant
from asft.methods.asft import AsFT


@dataclass(frozen=True)
class L2(AsFT):
    """Ĉ = 0: R = λ‖BA‖², a plain penalty on the update's size.

    What AsFT does beyond this is what the alignment direction does.
    """

    name: ClassVar[str] = "l2"
    label: ClassVar[str] = "L2 (Ĉ = 0)"
    controls: ClassVar[tuple[str, ...]] = ("sft",)
    variant: ClassVar[Variant] = "identity"


@dataclass(frozen=True)
class AsFTProjector(AsFT):
    """Ĉ = U_k U_kᵀ, a true projector onto the k leading left singular directions of V (ours).

    Unlike the surrogate VVᵀ/‖V‖ it is idempotent and does not change with the scale of V.
    """

    name: ClassVar[str] = "asft_projector"
    label: ClassVar[str] = "AsFT, rank-k projector"
    variant: ClassVar[Variant] = "projector"
    rank: Annotated[int, Field(ge=1)] | None = 32


@dataclass(frozen=True)
class AsFTParallel(AsFT):
    """R = λ‖Ĉ BA‖²: penalises the part along the alignment direction (paper Fig. 4b)."""

    name: ClassVar[str] = "asft_parallel"
    label: ClassVar[str] = "AsFT, along the direction"
    variant: ClassVar[Variant] = "parallel"


@dataclass(frozen=True)
class AsFTRandom(AsFT):
    """AsFT with an anchor of the same spectrum and random directions, the same ones whatever the cell's seed."""

    name: ClassVar[str] = "asft_random"
    label: ClassVar[str] = "AsFT, random directions"
    controls: ClassVar[tuple[str, ...]] = ("l2",)
    variant: ClassVar[Variant] = "random"
