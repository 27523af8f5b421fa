"""Safe LoRA: after training, project chosen modules' updates onto the alignment direction (arXiv:2405.16833).

Per module c = cos(ĈBA, BA); where c is at or below the cut, B becomes ĈB. Nothing is trained: the adapter is
that of plain SFT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Method
from asft.methods.sft import SFT

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from asft.config import Settings


@dataclass(frozen=True)
class SafeLoRA(Method):
    """Projects the SFT adapter.

    Attributes:
        mode: ``number`` projects the K modules of smallest c (ties add some), ``threshold`` those with c ≤ τ.
        number: K. The reference's default is 10 of Llama-2-7B's 64 adapted modules; the AsFT paper states none.
        threshold: τ, the reference's default.
    """

    name: ClassVar[str] = "safe_lora"
    label: ClassVar[str] = "Safe LoRA"
    parent: ClassVar[type[Method] | None] = SFT
    mode: Literal["number", "threshold"] = "number"
    number: Annotated[int, Field(ge=1)] = 10
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.5

    def check(self, cell: Settings) -> None:
        """Refuses full-parameter training, of which there is no adapter to project."""
        if cell.training.name != "lora":
            raise ValueError(
                f"training={cell.training.name}: method=safe_lora projects LoRA adapters; use training=lora"
            )

    def finish(self, model: PeftModel | PreTrainedModel, ctx: Context) -> dict[str, Any]:
        """The projection, and which modules it touched."""
        from asft import safe_lora

        report = safe_lora(
            model,
            ctx.pair.base,
            ctx.pair.aligned,
            mode=self.mode,
            number=self.number,
            threshold=self.threshold,
        )
        return {"safe_lora": report.to_dict()}
