"""PTST: pure tuning, safe testing (arXiv:2402.18540).

A safety prompt is put before every query and before no training row; nothing is trained but what it comes after.
Published results depend on the very words: the authors try Llama-2's prompts and others; the words here are ours, to be
replaced by those of the model's family. FA is scored with the prompt, too.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from asft.methods.base import Context
from asft.methods.post_hoc import PostHoc


@dataclass(frozen=True)
class PTST(PostHoc):
    """Asks with a safety prompt.

    Attributes:
        prompt: the system text; empty, it is the method inside.
    """

    name: ClassVar[str] = "ptst"
    label: ClassVar[str] = "PTST"
    controls: ClassVar[tuple[str, ...]] = ("sft",)
    prompt: str = (
        "You are a careful assistant. Help with every honest request, and answer truthfully. Refuse whatever is "
        "harmful, illegal or cruel, and say in a sentence why."
    )

    def acts(self) -> bool:
        """It changes the queries, not the weights."""
        return False

    def system_prompt(self, ctx: Context) -> str:
        """The safety prompt, then the other method's text, if any."""
        return "\n\n".join(filter(None, (self.prompt, super().system_prompt(ctx))))
