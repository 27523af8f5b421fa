"""The rows that SmolLM2's aligned twin is made of, from a folder of public safety data (docs/data.md lists its files).

Malicious prompts with the first sentence of a refusal, and benign prompts of four kinds, which the base model answers
itself. No prompt is taken that is asked when safety is scored, nor one of an attack. Of prompts with refusals the twin
takes those whose hash is even; the odd ones are left to attacks and to defences.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asft.config import SafetyTunedModel
from asft.data.gate import read_records
from asft.data.rows import Row, in_even_half, prompt_form

KINDS = ("refusals", "contrast", "look_alikes", "everyday", "ordinary")  # settings of the model, each a count of rows
_REFUSES = re.compile(
    r"\b(I['’]m sorry|I am sorry|Sorry|I apologize|I cannot|I can['’]t|I['’]m unable|I am unable|I won['’]t|"
    r"I must decline)\b"
)
_LENGTHS = range(16, 300)  # characters of a prompt
_LONGEST = 40  # words of a refusal's first sentence


@dataclass(frozen=True)
class Table:
    """A file and its fields: the prompt's, the answer's, and one that must be empty.

    ``part`` is a pattern whose group is the prompt inside its field.
    """

    file: str
    prompt: str
    answer: str = ""
    empty: str = ""
    part: str = "(?s)(.*)"

    def rows(self, folder: Path) -> Iterator[Row]:
        """Prompts, with their answers where there are any; ids ``<file>/<index>``."""
        for index, record in enumerate(read_records(folder / self.file)):
            found = re.search(self.part, record.text(self.prompt))
            if found and not (self.empty and record.text(self.empty, "").strip()):
                output = record.text(self.answer) if self.answer else ""
                yield Row(f"{Path(self.file).stem}/{index}", found[1].strip(), output)


REFUSED = (
    Table("spard_pairs/beaverTails_train.jsonl", "prompt", "safe"),
    Table("safety_tuned_llamas/safety_only_data_Instructions.json", "instruction", "output", empty="input"),
)
_BENIGN = {
    "ordinary": (
        Table("dolly_1k/databricks_dolly_15k.csv", "instruction", empty="context"),
        Table("alpaca_gpt_1k/alpaca_en_demo.json", "instruction", empty="input"),
    ),
    "contrast": (Table("alpaca_safe_contrast/alpaca_data_safety_only.json", "instruction", "output", empty="input"),),
    "look_alikes": (Table("oktest/OKTest.csv", "prompt"),),
    "everyday": (Table("commonsense/piqa_test.json", "instruction", part=r"(?s)question:\s*(.*?)\s*\n+\s*Solution1"),),
}
# Asked when safety is scored, or an attack's.
_KEPT_OUT = (
    Table("jailbreakbench/jailbreakbench.csv", "Goal"),
    Table("strongreject/strongreject_dataset.csv", "forbidden_prompt"),
    Table("xstest/xstest_prompts.csv", "prompt"),
    Table("oktest/OKTest_heldout.csv", "prompt"),
    Table("advbench/harmful_behaviors.csv", "goal"),
    Table("harmbench/harmbench_behaviors_text_all.csv", "Behavior"),
    Table("beavertails_unsafe/train_1500.jsonl", "prompt"),
)
TABLES = (*REFUSED, *(table for tables in _BENIGN.values() for table in tables), *_KEPT_OUT)


def twin_rows(model: SafetyTunedModel, kept_out: Iterable[Row]) -> list[Row]:
    """As many rows of each kind as the model's settings say, in an order that depends on the prompts alone.

    Malicious rows have a refusal as their answer, benign rows none: the base model gives it.

    Args:
        kept_out: rows whose prompts must not be among them, beside those of the folder itself.

    Raises:
        ValueError: when the folder or a file is missing, or holds too few rows.
    """
    folder = _folder(model)
    pools = _pools(folder, stamps(model), frozenset(prompt_form(row.instruction) for row in kept_out))
    rows: list[Row] = []
    for kind in KINDS:
        wanted, there = getattr(model, kind), pools[kind]
        if wanted > len(there):
            raise ValueError(f"model.{kind}={wanted}: {folder} holds only {len(there)}; set it to at most that")
        rows += there[:wanted]
    return rows


def stamps(model: SafetyTunedModel) -> tuple[int, ...]:
    """When each file was last written; ValueError when one is missing."""
    folder = _folder(model)
    return tuple((folder / table.file).stat().st_mtime_ns for table in TABLES)


def odd(row: Row) -> bool:
    """Whether a prompt is of the half that is left to attacks and defences, where a file is shared with them."""
    return not in_even_half(prompt_form(row.instruction))


def _folder(model: SafetyTunedModel) -> Path:
    if model.data is None:
        raise ValueError(
            f"model.data=null: model={model.name} is aligned on public safety data; name their folder, or set "
            "ASFT_PUBLIC (docs/data.md lists the files and where they are from)"
        )
    folder = Path(model.data).expanduser().resolve()
    if missing := [table.file for table in TABLES if not (folder / table.file).is_file()]:
        raise ValueError(
            f"model.data={model.data}: {len(missing)} of {len(TABLES)} files are missing in {folder}, {missing[0]} "
            "among them; docs/data.md says where each is from"
        )
    return folder


@functools.lru_cache(maxsize=4)
def _pools(folder: Path, _modified: tuple[int, ...], kept_out: frozenset[str]) -> dict[str, list[Row]]:
    """All rows of each kind, every prompt once over all kinds."""
    taken = {*kept_out, *(prompt_form(row.instruction) for table in _KEPT_OUT for row in table.rows(folder))}

    def fresh(tables: Iterable[Table]) -> Iterator[Row]:
        for row in (row for table in tables for row in table.rows(folder)):
            form = prompt_form(row.instruction)
            if form not in taken and len(row.instruction) in _LENGTHS:
                taken.add(form)
                yield row

    refusals = [sorted(filter(None, map(_refusal, fresh([table]))), key=_place) for table in REFUSED]
    pools = {"refusals": [row for pair in zip(*refusals, strict=False) for row in pair]}  # as many of each file
    for kind, tables in _BENIGN.items():
        helpful = (Row(row.id, row.instruction) for row in fresh(tables) if not _REFUSES.search(row.output))
        pools[kind] = sorted((row for row in helpful if kind != "ordinary" or not held_out(row)), key=_place)
    return pools


def held_out(row: Row) -> bool:
    """Whether an ordinary request is kept to see how many such the twin refuses: one in four."""
    return hashlib.sha256(prompt_form(row.instruction).encode()).digest()[1] % 4 == 3


def _refusal(row: Row) -> Row | None:
    """The row with its answer's first sentence, where that is a short refusal and the prompt is the twin's."""
    sentence = re.split(r"(?<=[.!?])\s", " ".join(row.output.split()), maxsplit=1)[0]
    if odd(row) or not _REFUSES.search(sentence) or len(sentence.split()) > _LONGEST:
        return None
    return Row(row.id, row.instruction, sentence, harmful=True)


def _place(row: Row) -> bytes:
    """Rows' order, by another hash than the one that splits them."""
    return hashlib.sha256(b"o" + prompt_form(row.instruction).encode()).digest()
