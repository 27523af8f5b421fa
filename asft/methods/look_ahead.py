"""LookAhead tuning: the question shows how the answer begins, so that this teaches little (arXiv:2503.19041).

*real*: the input gains "The answer begins with:" and the answer's first m tokens; the answer stays as it is. *virtual*:
the input gains the same words and a fixed prefix P, which every answer begins with. Queries at inference are as ever.

The preview is cut from the answer's own text where its m-th token ends; the reference puts tokens back together, which
loses a blank in front with some tokenizers. ``protocol=clean`` never cuts a prompt, so that no preview is lost. Where
answers are shorter than m, as a label is, the preview is the answer and training teaches to copy it: that is told, and
FA shows it. Virtual training leaves P in every generated answer: a task that counts whole answers is refused.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Method, Strength

if TYPE_CHECKING:
    from asft.config import Settings
    from asft.data.base import Data
    from asft.data.rows import Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LookAheadReal(Method):
    """Shows the answer's first tokens.

    Attributes:
        tokens: m; 6 in the authors' code. 0 leaves rows as they are.
        connector: what stands before the preview.
    """

    name: ClassVar[str] = "lookahead_real"
    label: ClassVar[str] = "LookAhead (real)"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.tokens", "m", 1, 32, "log", off=0),)
    tokens: Annotated[int, Field(ge=0)] = 6
    connector: str = " The answer begins with: "

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """The same rows in the same order, with previews."""
        if not self.tokens:
            return list(rows)
        tokenizer = ctx.pair.tokenizer()
        encode = partial(tokenizer, add_special_tokens=False, return_offsets_mapping=True)
        ends = [encode(row.output)["offset_mapping"][: self.tokens] for row in rows]
        previews = [row.output[: end[-1][1]] if end else "" for row, end in zip(rows, ends, strict=True)]
        whole = sum(preview == row.output for row, preview in zip(rows, previews, strict=True))
        if whole > len(rows) / 2:
            log.warning(
                "method=%s: the previews of %d of %d rows hold the whole answer, so training teaches to copy it; "
                "lower method.tokens, or choose a task with longer answers",
                self.name,
                whole,
                len(rows),
            )
        return [_asking(row, self.connector + preview) for row, preview in zip(rows, previews, strict=True)]


@dataclass(frozen=True)
class LookAheadVirtual(Method):
    """Begins every answer with a prefix, which the input shows.

    Attributes:
        prefix: P, the authors'.
        connector: what stands before it.
    """

    name: ClassVar[str] = "lookahead_virtual"
    label: ClassVar[str] = "LookAhead (virtual)"
    prefix: Annotated[str, Field(min_length=1)] = "Let's solve this problem. "
    connector: str = " The answer begins with: "

    def check_rows(self, rows: Sequence[Row], data: Data, cell: Settings) -> None:
        """Refuses a task whose rule counts no answer that begins with the prefix."""
        from asft.data.base import task_of

        super().check_rows(rows, data, cell)
        task = task_of(cell)
        if not task.graded(data.source) and not any(task.credit(row, self.prefix + row.output) for row in data.test):
            raise ValueError(
                f"dataset={task.name}: counts whole answers, and method={self.name} has each begin with "
                f"{self.prefix!r}, so that none would count; choose another task"
            )

    def mixture(self, rows: Sequence[Row], ctx: Context) -> list[Row]:
        """The same rows in the same order, with the prefix."""
        asking = [_asking(row, self.connector + self.prefix) for row in rows]
        return [dataclasses.replace(row, output=self.prefix + row.output) for row in asking]


def _asking(row: Row, more: str) -> Row:
    """The row with more at the end of the user's turn."""
    last = "input" if row.input else "instruction"
    return dataclasses.replace(row, **{last: getattr(row, last) + more})
