"""Defences that mix safety rows into the user's data: SafeInstr (arXiv:2309.07875) and BEA (arXiv:2402.14968)."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.door import read_tokenizer
from asft.methods.base import Context, Method, Strength
from asft.methods.post_hoc import PostHoc

if TYPE_CHECKING:
    from asft.config import Settings
    from asft.data.base import Data
    from asft.data.rows import Row

OFFICIAL_TRIGGER_LENGTH = 99  # characters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SafeInstr(Method):
    """Plain SFT on the user's rows and some malicious prompts answered by refusals (Bianchi et al. 2023).

    Attributes:
        share: safety rows as a share of n. The AsFT paper states neither count nor source; 0.1 is ours, in
            the range of the original (100 to 2,000 safety rows beside 20,000).
    """

    name: ClassVar[str] = "safeinstr"
    label: ClassVar[str] = "SafeInstr"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.share", "share", 0.01, 1, "log"),)
    controls: ClassVar[tuple[str, ...]] = ("benign_rows",)
    share: Annotated[float, Field(gt=0, le=1)] = 0.1

    def safety_rows(self, cell: Settings) -> int:
        """round(share · n)."""
        return round(self.share * cell.attack.n)

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """The user's rows, then round(share · n) safety rows drawn from the seed, or all where there are a few less."""
        wanted, there = self.safety_rows(ctx.cell), len(ctx.data.safety)
        if there < wanted:
            log.warning("method=%s: takes all %d safety rows that there are in place of %d", self.name, there, wanted)
        return [*rows, *safety_rows(ctx, min(wanted, there))]

    def check_rows(self, rows: Sequence[Row], data: Data, cell: Settings) -> None:
        """Refuses a share that the safety rows are less than nine tenths of: the authors' files hold 98, not 100."""
        if len(data.safety) < 0.9 * self.safety_rows(cell):
            super().check_rows(rows, data, cell)


@dataclass(frozen=True)
class BenignRows(SafeInstr):
    """The control for methods that mix in safety rows: a share of n more rows of the task itself in their place.

    As many as SafeInstr's; BEA's eleven are fewer.
    """

    name: ClassVar[str] = "benign_rows"
    label: ClassVar[str] = "more benign rows"
    controls: ClassVar[tuple[str, ...]] = ("sft",)

    def safety_rows(self, cell: Settings) -> int:
        """None."""
        return 0

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """The user's rows, then round(share · n) others of the task, drawn from the seed."""
        return [*rows, *self._others(rows, ctx.data, ctx.cell)[: super().safety_rows(ctx.cell)]]

    def check_rows(self, rows: Sequence[Row], data: Data, cell: Settings) -> None:
        """Refuses a share that the task has no rows for."""
        count, there = super().safety_rows(cell), len(self._others(rows, data, cell))
        if count > there:
            raise ValueError(f"method.share={self.share}: needs {count} more rows of the task, which has {there}")

    @staticmethod
    def _others(rows: Sequence[Row], data: Data, cell: Settings) -> list[Row]:
        from asft.data.rows import shuffled

        there = {(row.instruction, row.input) for row in rows}
        pool = shuffled(data.train, cell.seed, "benign")
        return [row for row in pool if (row.instruction, row.input) not in there]


@dataclass(frozen=True)
class BEA(Method):
    """Backdoor-enhanced alignment (Wang et al. 2024): safety rows carry a secret trigger in the system text.

    At inference the provider puts the same trigger before every query, benign ones included.

    Attributes:
        safety: rows that carry the trigger; 11 in the authors' code, one per policy category.
        trigger_tokens: length of the trigger; 150 random tokens in the authors' code.
        ask_with_trigger: whether queries carry the trigger; None is as the protocol has it (clean: yes; official:
            no, since the AsFT authors' evaluation scripts never prepend it).
    """

    name: ClassVar[str] = "bea"
    label: ClassVar[str] = "BEA"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.safety", "rows", 1, 100, "log"),)
    controls: ClassVar[tuple[str, ...]] = ("benign_rows", "safeinstr")
    safety_field: ClassVar[str] = "safety"
    safety: Annotated[int, Field(ge=1)] = 11
    trigger_tokens: Annotated[int, Field(ge=1)] = 150
    ask_with_trigger: bool | None = None

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """The user's rows, then the safety rows with the trigger as their system text."""
        trigger = self._trigger(ctx)
        chosen = safety_rows(ctx, self.safety)
        return [*rows, *(dataclasses.replace(row, system=trigger) for row in chosen)]

    def system_prompt(self, ctx: Context) -> str:
        """The trigger, where queries carry it."""
        clean = ctx.cell.protocol.name == "clean"
        asked = clean if self.ask_with_trigger is None else self.ask_with_trigger
        return self._trigger(ctx) if asked else ""

    def _trigger(self, ctx: Context) -> str:
        """All of the trigger; under ``protocol=official`` its first 99 characters, as AsFT's loaders cut it."""
        trigger = make_trigger(ctx.pair.aligned, self.trigger_tokens)
        return trigger[:OFFICIAL_TRIGGER_LENGTH] if ctx.cell.protocol.name == "official" else trigger


@dataclass(frozen=True)
class BEAWithoutTrigger(PostHoc):
    """BEA's model asked without its trigger, as the AsFT authors' evaluation scripts do."""

    name: ClassVar[str] = "bea_no_trigger"
    label: ClassVar[str] = "BEA, no trigger"
    after: BEA = BEA()

    def check(self, cell: Settings) -> None:
        """Refuses a say on the trigger in queries, which have none."""
        super().check(cell)
        if self.after.ask_with_trigger is not None:
            told = f"method.after.ask_with_trigger={self.after.ask_with_trigger}"
            raise ValueError(f"{told}: method={self.name} asks without the trigger; leave it out")

    def acts(self) -> bool:
        """It changes the queries, not the weights."""
        return False

    def system_prompt(self, ctx: Context) -> str:
        """None."""
        return ""


def safety_rows(ctx: Context, count: int) -> list[Row]:
    """``count`` refusals of the data's safety pool, drawn from the cell's seed."""
    from asft.data.rows import shuffled

    assert count <= len(ctx.data.safety), "check_rows() saw to it"
    return shuffled(ctx.data.safety, ctx.cell.seed, "safety")[:count]


@lru_cache(maxsize=8)
def make_trigger(tokenizer_folder: Path, length: int) -> str:
    """A fixed text of exactly ``length`` random ordinary tokens of the tokenizer, the same at every call.

    Tokens are drawn one by one and kept only if the text so far still encodes to as many tokens, so that
    decoding and encoding return the drawn ids.
    """
    tokenizer = read_tokenizer(tokenizer_folder)
    rng, special = random.Random("bea-trigger"), set(tokenizer.all_special_ids)
    ordinary = [
        token
        for token in sorted(tokenizer.get_vocab().values())
        if token not in special and tokenizer.decode([token]).strip().isalpha()
    ]
    chosen: list[int] = []
    while len(chosen) < length:
        candidate = [*chosen, rng.choice(ordinary)]
        text = tokenizer.decode(candidate)
        if text == text.strip() and tokenizer(text, add_special_tokens=False)["input_ids"] == candidate:
            chosen = candidate
    return str(tokenizer.decode(chosen))
