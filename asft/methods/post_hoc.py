"""Methods that train nothing: they change what another method, with its own settings, has trained."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.config import Settings, Side
from asft.methods.base import Context, FineTune, Method, Start
from asft.methods.sft import SFT


@dataclass(frozen=True)
class PostHoc(Method):
    """Base class: ``finish`` is handed the trained adapter or full weights of the method that it comes after.

    Attributes:
        after: that method; its training is found or done first, and never repeated.
    """

    controls: ClassVar[tuple[str, ...]] = ("wise_ft",)
    after: Method = SFT()

    def check(self, cell: Settings) -> None:
        """Refuses to come after a method that trains nothing, and what that method refuses."""
        super().check(cell)
        if not self.after.trains:
            raise ValueError(
                f"method.after={self.after.name}: trains nothing for method={self.name} to change; choose another"
            )
        self.after.check(cell)

    def start(self) -> Side | Start:
        """Where the other method's training began."""
        return self.after.start()

    def requires(self, cell: Settings) -> dict[str, FineTune]:
        """The other method's weights."""
        return {"after": FineTune(self.after)}

    def system_prompt(self, ctx: Context) -> str:
        """The other method's."""
        return self.after.system_prompt(ctx)
