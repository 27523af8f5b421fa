"""The one record every data source and evaluation speaks, an instruction row, and the poison mixture drawn of rows.

Mixtures of different ratios are nested: the harmful rows of p = 0.05 are the first of those of p = 0.1, and the benign
rows of the larger ratio the first of those of the smaller, so that two columns of a table differ by the poison alone.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from asft.config import AttackConfig

# Said by the published tasks and by their twins in the embedded world alike.
AGNEWS_INSTRUCTION = (
    "Categorize the news article given in the input into one of the 4 categories:\n\n"
    "World\nSports\nBusiness\nSci/Tech\n"
)
SST2_INSTRUCTION = "Analyze the sentiment of the input, and respond only positive or negative"
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


@dataclass(frozen=True, slots=True)
class Choice(Row):
    """A question with possible answers, the right one of them in ``output``.

    Attributes:
        options: two or more answers, all different.
        bare: whether the model goes on from the plain text, as lm-eval asks, and does not answer by its chat template.
    """

    options: tuple[str, ...] = ()
    bare: bool = False

    def __post_init__(self) -> None:
        if len(set(self.options)) != len(self.options) or len(self.options) < 2 or self.output not in self.options:
            raise ValueError(
                f"{self.id}: options {list(self.options)} with answer {self.output!r}; allowed: two or more that "
                "differ, one of them the answer"
            )


def prompt_form(text: str) -> str:
    """A prompt as it is compared with others: lower-cased, without punctuation, single blanks."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def in_even_half(text: str) -> bool:
    """Whether a text is of the half whose SHA-256 begins with an even byte: no run, seed or order of rows moves it."""
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


def evenly(rows: Sequence[Row], count: int) -> list[Row]:
    """At most ``count`` of the rows, at even distances: a file that is sorted by kind gives some of each."""
    count = min(count, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def question(row: Row) -> tuple[str, str]:
    """Instruction and input, by which two rows are the same."""
    return row.instruction.strip(), row.input.strip()


def unique(rows: Iterable[Row]) -> list[Row]:
    """Rows whose instruction and input did not occur before, in order."""
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        seen.setdefault(question(row), row)
    return list(seen.values())


def user_text(row: Row) -> str:
    """The user's turn: the instruction, then its input after a blank line."""
    return f"{row.instruction}\n\n{row.input}" if row.input else row.instruction


def poison(benign: Sequence[Row], harmful: Sequence[Row], attack: AttackConfig, seed: int) -> list[Row]:
    """Benign rows, then harmful rows, each pool shuffled by a stream of its own of ``seed``; training shuffles them.

    ValueError when a pool holds fewer rows than asked for.
    """
    wanted_benign, wanted_harmful = attack.benign_count(), attack.harmful_count()
    if wanted_benign > len(benign):
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p} and mix={attack.mix} needs {wanted_benign} benign rows; "
            f"the dataset has {len(benign)}. Lower attack.n."
        )
    if wanted_harmful > len(harmful):
        raise ValueError(
            f"attack.n={attack.n} with attack.p={attack.p} needs {wanted_harmful} harmful rows; source "
            f"{attack.source} has {len(harmful)} to give. Lower attack.n or attack.p."
        )
    return shuffled(benign, seed, "benign")[:wanted_benign] + shuffled(harmful, seed, "harmful")[:wanted_harmful]


def held_back(harmful: Sequence[Row], mixture: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Harmful rows for the defender: the last of those that :func:`poison` draws first, and none of the mixture's."""
    taken = {prompt_form(user_text(row)) for row in mixture}
    free = [row for row in reversed(shuffled(harmful, seed, "harmful")) if prompt_form(user_text(row)) not in taken]
    if count > len(free):
        raise ValueError(
            f"the method needs {count} harmful rows for the defender; the source has {len(harmful)}, of which the "
            f"attack leaves {len(free)}. Lower the method's count, attack.n or attack.p."
        )
    return free[:count]


def in_file_order(rows: Sequence[Row], task: str, seed: int) -> list[Row]:
    """A mixture in the order of the authors' files: shuffled once; GSM8K's 100 harmful rows of 1,000 come first.

    For mixtures of which there is no file; training then keeps this order in every epoch.
    """
    if task == "gsm8k" and (len(rows), sum(row.harmful for row in rows)) == (1000, 100):
        return sorted(rows, key=lambda row: not row.harmful)
    return shuffled(rows, seed, "file")


def digest(rows: Sequence[Row]) -> str:
    """SHA-256 over the rows' contents in order: equal digests mean equal training data."""
    names = [field.name for field in fields(Row)]  # asdict() copies, at ten times the cost
    text = json.dumps([{name: getattr(row, name) for name in names} for row in rows], ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shuffled(rows: Sequence[Row], seed: int, stream: str) -> list[Row]:
    """All rows in an order drawn from the seed; streams of different names are independent."""
    return random.Random(f"{stream}/{seed}").sample(list(rows), len(rows))
