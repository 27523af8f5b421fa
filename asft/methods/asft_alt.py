"""AsFT_Alt: no base model is at hand, so the harmful direction is learned and its inside penalised.

The paper's paragraph (arXiv:2506.08473, Table 8) leaves sample count, normalisation and λ open and no code exists. As
it is read here: SFT of the aligned model on harmful rows alone gives B_h per module; Q = orth(B_h); R = λ Σ ‖QQᵀBA‖².
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, FineTune, Method, Strength
from asft.methods.sft import SFT

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from asft.config import Settings
    from asft.methods.base import Model


@dataclass(frozen=True)
class AsFTAlt(Method):
    """Penalises the part of each update inside the column space of a short harmful fine-tune.

    Attributes:
        lam: λ; 1 as in AsFT, the paper states none.
        harmful: rows of the harmful fine-tune; the paper's Table 1 uses 10 to 500, 100 is ours. They are drawn
            from the attack's source by a seed of their own, since a defender does not know the attack's rows; where
            the source is small some are the same.
        scale: as in AsFT.
    """

    name: ClassVar[str] = "asft_alt"
    label: ClassVar[str] = "AsFT_Alt"
    needs_training: ClassVar[str] = "lora"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.lam", "λ", 0.01, 100, "log", off=0),)
    controls: ClassVar[tuple[str, ...]] = ("l2", "sft")
    lam: Annotated[float, Field(ge=0)] = 1.0
    harmful: Annotated[int, Field(ge=1)] = 100
    scale: Literal["raw", "effective"] = "raw"

    def check(self, cell: Settings) -> None:
        """Refuses attacks without a source of harmful rows."""
        super().check(cell)
        if cell.attack.source == "none":
            raise ValueError("attack=none: method=asft_alt learns its direction from harmful rows; name a source")

    def requires(self, cell: Settings) -> dict[str, FineTune]:
        """SFT on harmful rows alone, drawn by another seed than the attack's."""
        attack = dataclasses.replace(cell.attack, p=1.0, n=self.harmful, mix="replace")
        return {"harmful": FineTune(SFT(), attack, cell.seed + 1000)}

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The penalty's gradient, added once per optimiser step."""
        from asft.anchor.anchor import Anchor
        from asft.anchor.callback import AsFTCallback

        anchor = Anchor.from_adapter(ctx.required["harmful"], device=str(model.device))
        return [AsFTCallback(anchor, self.lam, scale=self.scale)]
