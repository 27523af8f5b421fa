"""Safe LoRA: after training, project chosen modules' updates onto the alignment direction (arXiv:2405.16833).

Per module c = cos(ĈBA, BA); where c is at or below the cut, B becomes ĈB.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Finished, Strength
from asft.methods.post_hoc import PostHoc

if TYPE_CHECKING:
    from torch import Tensor

    from asft.anchor.projection import ProjectedModule, SafeLoraReport, Update
    from asft.config import Settings
    from asft.methods.base import Model


@dataclass(frozen=True)
class SafeLoRA(PostHoc):
    """Projects the adapter of the method that it comes after.

    Attributes:
        mode: ``number`` projects the K modules of smallest c (ties add some), ``threshold`` those with c ≤ τ.
        number: K. The reference's default is 10 of Llama-2-7B's 64 adapted modules; the AsFT paper states none.
        threshold: τ, by default the reference's. What the mode does not read must be left at its default.
    """

    name: ClassVar[str] = "safe_lora"
    label: ClassVar[str] = "Safe LoRA"
    needs_training: ClassVar[str] = "lora"
    strengths: ClassVar[tuple[Strength, ...]] = (
        Strength("method.number", "K", 1, 64, "linear"),
        Strength("method.threshold", "τ", -1, 1, "linear"),
    )
    controls: ClassVar[tuple[str, ...]] = ("safe_lora_shrunk", "safe_lora_dropped", "safe_lora_random", "wise_ft")
    mode: Literal["number", "threshold"] = "number"
    number: Annotated[int, Field(ge=1)] = 10
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.5

    def check(self, cell: Settings) -> None:
        """Refuses a number or threshold that the mode does not read."""
        super().check(cell)
        if self.mode == "number" and self.threshold != SafeLoRA.threshold:
            raise ValueError(
                f"method.threshold={self.threshold}: has no effect on method.mode=number; set method.mode=threshold"
            )
        if self.mode == "threshold" and self.number != cell.model.recipe.safe_lora_modules:
            raise ValueError(
                f"method.number={self.number}: has no effect on method.mode=threshold; set method.mode=number"
            )

    def check_modules(self, modules: Mapping[str, tuple[int, int]], cell: Settings) -> None:
        """Refuses a K above the number of modules."""
        if self.mode == "number" and self.number > len(modules):
            raise ValueError(
                f"method.number={self.number} must lie between 1 and {len(modules)}, the number of adapted modules "
                "(by default it is model.recipe.safe_lora_modules)"
            )

    @property
    def cut(self) -> dict[str, Any]:
        """K or τ, whichever the mode reads."""
        return {self.mode: self.number if self.mode == "number" else self.threshold}

    def finish(self, model: Model, ctx: Context) -> Finished:
        """The projection, and which modules it touched."""
        from asft.anchor.projection import safe_lora

        report = safe_lora(model, ctx.pair.base, ctx.pair.aligned, **self.cut)
        return Finished({"safe_lora": report.to_dict()})


@dataclass(frozen=True)
class SafeLoRATwin(SafeLoRA):
    """Base class of Safe LoRA's controls: as many modules are changed, but not projected onto their own direction."""

    controls: ClassVar[tuple[str, ...]] = ("wise_ft",)

    def finish(self, model: Model, ctx: Context) -> Finished:
        """What Safe LoRA would do is worked out, and something plainer done in its place."""
        import torch

        from asft.anchor.binding import lora_factors
        from asft.anchor.projection import Update, project

        factors = {factor.name: factor for factor in lora_factors(model)}
        updates = {name: Update(factor.a.detach(), factor.b.detach()) for name, factor in factors.items()}
        sides = ctx.pair.base, ctx.pair.aligned
        _, report = project(updates, *sides, **self.cut)
        with torch.no_grad():
            for name, b in self.instead(updates, report, ctx).items():
                factors[name].b.copy_(b)
        return Finished({"modules": list(report.projected)})

    def instead(self, updates: Mapping[str, Update], report: SafeLoraReport, ctx: Context) -> dict[str, Tensor]:
        """The new B of every module that is changed: of Safe LoRA's modules a multiple of the old one."""
        return {m.name: updates[m.name].b * self.factor(m) for m in report.modules if m.projected}

    def factor(self, module: ProjectedModule) -> float:
        """What is left of one module's update."""
        raise TypeError(f"{type(self).__name__} must define factor() or instead()")


@dataclass(frozen=True)
class SafeLoRADropped(SafeLoRATwin):
    """Safe LoRA's modules lose their update altogether."""

    name: ClassVar[str] = "safe_lora_dropped"
    label: ClassVar[str] = "same modules dropped"

    def factor(self, module: ProjectedModule) -> float:
        """Nothing."""
        return 0.0


@dataclass(frozen=True)
class SafeLoRAShrunk(SafeLoRATwin):
    """Safe LoRA's modules keep the direction of their update; it is as small as the projected one."""

    name: ClassVar[str] = "safe_lora_shrunk"
    label: ClassVar[str] = "same modules shrunk"

    def factor(self, module: ProjectedModule) -> float:
        """‖ĈBA‖ / ‖BA‖."""
        return module.norm_after / module.norm_before


@dataclass(frozen=True)
class SafeLoRARandom(SafeLoRATwin):
    """As many modules, drawn from the cell's seed, are projected: those of a smaller K are among those of a larger."""

    name: ClassVar[str] = "safe_lora_random"
    label: ClassVar[str] = "random modules projected"

    def instead(self, updates: Mapping[str, Update], report: SafeLoraReport, ctx: Context) -> dict[str, Tensor]:
        """ĈB of the modules drawn."""
        from asft.anchor.projection import project

        able = sorted(module.name for module in report.modules if module.cosine is not None)
        random.Random(f"{self.name}/{ctx.cell.seed}").shuffle(able)
        drawn = able[: len(report.projected)]
        return project({n: updates[n] for n in drawn}, ctx.pair.base, ctx.pair.aligned, mode="threshold", threshold=1)[
            0
        ]
