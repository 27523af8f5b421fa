"""Safe LoRA: after training, project chosen modules' updates onto the alignment direction (arXiv:2405.16833).

Per module c = cos(ĈBA, BA); where c is at or below the cut, B becomes ĈB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Finished, Strength
from asft.methods.post_hoc import PostHoc

if TYPE_CHECKING:
    from asft.config import Settings
    from asft.methods.base import Model


@dataclass(frozen=True)
class SafeLoRA(PostHoc):
    """Projects the adapter of the method that it comes after.

    Attributes:
        mode: ``number`` projects the K modules of smallest c (ties add some), ``threshold`` those with c ≤ τ.
        number: K. The reference's default is 10 of Llama-2-7B's 64 adapted modules; the AsFT paper states none.
        threshold: τ, the reference's default.
    """

    name: ClassVar[str] = "safe_lora"
    label: ClassVar[str] = "Safe LoRA"
    strengths: ClassVar[tuple[Strength, ...]] = (
        Strength("method.number", "K", 1, 64, "linear"),
        Strength("method.threshold", "τ", -1, 1, "linear"),
    )
    mode: Literal["number", "threshold"] = "number"
    number: Annotated[int, Field(ge=1)] = 10
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.5

    def check(self, cell: Settings) -> None:
        """Refuses full-parameter training, of which there is no adapter to project."""
        super().check(cell)
        if cell.training.name != "lora":
            raise ValueError(
                f"training={cell.training.name}: method=safe_lora projects LoRA adapters; use training=lora"
            )

    def finish(self, model: Model, ctx: Context) -> Finished:
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
        return Finished({"safe_lora": report.to_dict()})
