"""What was tried beyond the field's methods, and is in none of them: see docs/field.md.

A folder of plug-ins: ``asft run -m 'hydra.searchpath=[file://…/scripts/field]' experiment=field_tried``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from asft.methods.asft import AsFT
from asft.methods.base import Context, Finished, Start
from asft.methods.lox import Extrapolated
from asft.methods.own_pass import OwnPass, batches, evaluating, prompts
from asft.methods.post_hoc import PostHoc
from asft.methods.sbr import SBR, last_states

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from asft.methods.base import Model


@dataclass(frozen=True)
class AlignedStates(SBR):
    """SBR along what alignment has changed: λ/K · ‖ΔDᵀ‖²/‖D‖² instead of λ/(Kd) · ‖Δ‖².

    Δ (K×d) is how far the harmful prompts' last states have moved since the start, D (K×d) how far alignment had moved
    them from the base model's. Movement across D costs nothing. With D in any direction alike both are the same.

    Attributes:
        directions: ``random`` turns D by a random rotation: the same spectrum, other directions.
    """

    name: ClassVar[str] = "aligned_states"
    label: ClassVar[str] = "activation anchor"
    controls: ClassVar[tuple[str, ...]] = ("aligned_states_random", "sbr", "sft")
    directions: Literal["alignment", "random"] = "alignment"

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The term's gradient."""
        (batch,) = batches(prompts(self.anchor_rows(ctx), ctx), ctx, self.anchors, model.device)
        base = ctx.pair.load("base", model.device)
        with evaluating(model), evaluating(base), torch.no_grad():
            start = last_states(model, batch)
            change = start - last_states(base, batch)
        if self.directions == "random":
            drawn = torch.randn(
                change.shape[1], change.shape[1], generator=torch.Generator().manual_seed(ctx.cell.seed)
            )
            change = change @ torch.linalg.qr(drawn)[0].to(change)
        change = change / torch.linalg.matrix_norm(change)

        def before(step: int) -> None:
            moved = (last_states(model, batch) - start) @ change.mT
            own.add(own.gradient(moved.square().sum() / len(start)), self.lam)

        own = OwnPass(model, before=before)
        return [own]


@dataclass(frozen=True)
class AlignedStatesRandom(AlignedStates):
    """Its control."""

    name: ClassVar[str] = "aligned_states_random"
    label: ClassVar[str] = "activation anchor, random directions"
    controls: ClassVar[tuple[str, ...]] = ("sft",)
    directions: Literal["alignment", "random"] = "random"


@dataclass(frozen=True)
class LoXAsFT(AsFT):
    """AsFT from LoX's start."""

    name: ClassVar[str] = "lox_asft"
    label: ClassVar[str] = "LoX + AsFT"
    controls: ClassVar[tuple[str, ...]] = ("lox", "asft", "sft")

    def start(self) -> Start:
        """The aligned model moved further away from the base model."""
        return Extrapolated()


@dataclass(frozen=True)
class Rewritten(PostHoc):
    """The same update with other factors, (B/c, cA): what a merge of factors depends on and a merge of updates not.

    Attributes:
        factor: c.
    """

    name: ClassVar[str] = "rewritten"
    label: ClassVar[str] = "SFT, rewritten"
    controls: ClassVar[tuple[str, ...]] = ("sft",)
    factor: float = 4.0

    def finish(self, model: Model, ctx: Context) -> Finished:
        """The adapter, rewritten in place."""
        from asft.anchor.binding import lora_factors

        with torch.no_grad():
            for factors in lora_factors(model):
                factors.a.mul_(self.factor)
                factors.b.div_(self.factor)
        return Finished()
