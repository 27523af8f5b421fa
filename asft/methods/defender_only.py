"""Fine-tunes on the defender's rows alone, whose weights other methods merge in or take away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, FineTune, Method
from asft.methods.data_mixing import safety_rows

if TYPE_CHECKING:
    from asft.config import Settings
    from asft.data.rows import Row


@dataclass(frozen=True)
class DefenderOnly(Method):
    """Plain SFT on refusals, or on harmful rows that the attack does not use, and on none of the user's.

    Attributes:
        kind, rows: which rows, and how many.
    """

    name: ClassVar[str] = "defender_only"
    label: ClassVar[str] = "defender's rows alone"
    kind: Literal["safety", "harmful"] = "safety"
    rows: Annotated[int, Field(ge=1)] = 100

    def safety_rows(self, cell: Settings) -> int:
        """``rows``, where they are refusals."""
        return self.rows if self.kind == "safety" else 0

    def defender_rows(self, cell: Settings) -> int:
        """``rows``, where they are harmful."""
        return self.rows if self.kind == "harmful" else 0

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """The defender's rows."""
        return safety_rows(ctx, self.rows) if self.kind == "safety" else list(ctx.defender)


def defender_tune(method: Method, cell: Settings) -> FineTune:
    """A fine-tune that no row of the user's enters, so that one serves every poison ratio.

    ValueError under ``protocol=official``, which trains on published files alone: none is the defender's.
    """
    if cell.protocol.name == "official":
        raise ValueError(
            "protocol=official: trains on the authors' published files, and this method needs a fine-tune on rows of "
            "its own; use protocol=clean"
        )
    return FineTune(method, dataclasses.replace(cell.attack, p=0.0, n=1, mix="replace"))
