"""The one record every data source, mixture and evaluation speaks: an instruction row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FINAL_ANSWER = "The final answer is: "  # what GSM8K rows put before the number


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction with its reference answer.

    Attributes:
        id: stable and unique inside its source, e.g. ``agnews/train/17``.
        instruction: what the user asks.
        output: the answer to train on, or the gold label of a test row; empty for a bare prompt.
        input: further context of the instruction (the Alpaca convention); empty when there is none.
        harmful: whether the row asks for harmful content, whatever its answer says.
        system: a system text of this row alone, such as a trigger; empty for most rows.
    """

    id: str
    instruction: str
    output: str = ""
    input: str = ""
    harmful: bool = False
    system: str = ""


def unique(rows: Iterable[Row]) -> list[Row]:
    """Rows whose instruction and input did not occur before, in order."""
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        seen.setdefault((row.instruction.strip(), row.input.strip()), row)
    return list(seen.values())
