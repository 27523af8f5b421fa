"""SBR: keeps the last hidden states of a few harmful prompts where they were (arXiv:2605.05995).

L = CE + λ/(K·d) Σ_k ‖h(x_k) − h⁰(x_k)‖², h(x) being the state after the final norm (d) at the last token of prompt x,
h⁰ that of the weights at the start. λ is the authors' code's, which takes a mean over d; the paper's multiplies the
squared norm itself and is d times stronger.

The K prompts are one batch, and the term acts once per optimiser step; the reference adds it to every micro-batch's
loss, so that it grows with the accumulation. Its position of the last token is right for right padding alone; here it
is read off the mask. Its prompts are written into its file; here they are drawn from the data's safety pool, without
answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Method, Strength
from asft.methods.data_mixing import safety_rows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

    from asft.data.rows import Row
    from asft.methods.base import Model
    from asft.methods.own_pass import Batch


@dataclass(frozen=True)
class SBR(Method):
    """Anchors the answers' first thought on harmful prompts.

    Attributes:
        lam: λ; 50 in the authors' code.
        anchors: K; 8 in the code.
    """

    name: ClassVar[str] = "sbr"
    label: ClassVar[str] = "SBR"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.lam", "λ", 1, 10000, "log", off=0),)
    controls: ClassVar[tuple[str, ...]] = ("sbr_benign", "l2", "sft")
    safety_field: ClassVar[str] = "anchors"
    lam: Annotated[float, Field(ge=0)] = 50.0
    anchors: Annotated[int, Field(ge=1)] = 8

    def anchor_rows(self, ctx: Context) -> list[Row]:
        """The rows whose prompts are anchored."""
        return safety_rows(ctx, self.anchors)

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The term's gradient."""
        from asft.methods.own_pass import OwnPass, batches, evaluating, prompts

        (batch,) = batches(prompts(self.anchor_rows(ctx), ctx), ctx, self.anchors, model.device)
        with evaluating(model):
            start = last_states(model, batch).detach()

        def before(step: int) -> None:
            own.add(own.gradient((last_states(model, batch) - start).square().mean()), self.lam)

        own = OwnPass(model, before=before)
        return [own]


@dataclass(frozen=True)
class SBRBenign(SBR):
    """Anchors prompts of the task: is it safety that SBR keeps, or anything at all?"""

    name: ClassVar[str] = "sbr_benign"
    label: ClassVar[str] = "SBR, benign prompts"
    controls: ClassVar[tuple[str, ...]] = ("sft",)
    safety_field: ClassVar[str] = ""

    def anchor_rows(self, ctx: Context) -> list[Row]:
        """Training rows of the task, drawn from the seed."""
        from asft.data.rows import shuffled

        return shuffled(ctx.data.train, ctx.cell.seed, "anchors")[: self.anchors]


def last_states(model: Model, batch: Batch) -> Tensor:
    """The hidden state after the final norm at each prompt's last token, (K, d), at least float32."""
    import torch

    mask = batch["attention_mask"]
    last = mask.shape[1] - 1 - mask.flip(-1).argmax(-1)
    states = hidden_states(model, batch)[torch.arange(len(mask), device=mask.device), last]
    return states.to(torch.promote_types(states.dtype, torch.float32))


def hidden_states(model: Model, batch: Batch) -> Tensor:
    """The states after the final norm, (rows, length, d); no logits are computed."""
    mask = batch["attention_mask"]
    backbone = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # so that padding in front shifts nothing
    states: Tensor = backbone(batch["input_ids"], attention_mask=mask, position_ids=positions, use_cache=False)[0]
    return states.to(mask.device)  # of a model over several GPUs they come out on the last
