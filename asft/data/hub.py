"""Rows from datasets of the Hugging Face hub (``data=hub``), or from local copies of them.

Which dataset, revision, split and columns is said in ``conf/data/hub.yaml``; the record schemas are in docs/data.md.
Only data files are read: ``datasets`` runs no code of a dataset's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asft.data.rows import FINAL_ANSWER, Row, unique

if TYPE_CHECKING:
    from asft.config import HubSource, Settings

Record = Mapping[str, Any]
SST2_INSTRUCTION = "Analyze the sentiment of the input, and respond only positive or negative"
AGNEWS_INSTRUCTION = (
    "Categorize the news article given in the input into one of the 4 categories:\n\n"
    "World\nSports\nBusiness\nSci/Tech\n"
)
_SST2_LABELS = ("negative", "positive")
_AGNEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")
_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def task_rows(cell: Settings, part: str) -> list[Row]:
    """The task's ``train`` or ``test`` rows in the dataset's order, each once."""
    task = cell.dataset.name
    name = f"{task}_{part}"
    make = _TASK_ROWS[task]
    return unique(make(f"{name}/{index}", record) for index, record in enumerate(_records(cell, name)))


def harmful_rows(cell: Settings) -> list[Row]:
    """Rows of the attack's source, without prompts of the evaluation."""
    asked = {row.instruction for row in evaluation_prompts(cell)}
    return [row for row in _prompt_rows(cell, cell.attack.source) if row.instruction not in asked]


def evaluation_prompts(cell: Settings) -> list[Row]:
    """The malicious prompts of the harmful score: as many as are asked for, unfiltered, in the dataset's order."""
    records = _records(cell, "evaluation")
    column = source(cell, "evaluation").prompt
    wanted = records.select(range(min(cell.evaluation.n_harmful, len(records))))
    return [
        Row(id=f"evaluation/{index}", instruction=str(record[column]), harmful=True)
        for index, record in enumerate(wanted)
    ]


def safety_rows(cell: Settings) -> list[Row]:
    """Prompts with safe answers for defences that train on some; none of them in the attack's source or evaluation."""
    met = {row.instruction for row in evaluation_prompts(cell)}
    if cell.attack.source != "none":
        met |= {row.instruction for row in _prompt_rows(cell, cell.attack.source)}
    return [row for row in _prompt_rows(cell, "safety") if row.instruction not in met]


def source(cell: Settings, name: str) -> HubSource:
    """Where a pool comes from.

    Raises:
        ValueError: when ``data.sources`` does not name it, or names no column with answers to train on.
    """
    try:
        found = cell.data.sources[name]
    except KeyError:
        raise ValueError(f"data.sources.{name}: is missing; choose data=hub, which names every source") from None
    if name in {cell.attack.source, "safety"} and found.answer is None:
        raise ValueError(
            f"data.sources.{name}.answer=null: {found.path} has prompts and no answers to train on; point "
            f"data.sources.{name}.path at a copy that has them and name their column in data.sources.{name}.answer"
        )
    return found


def identity(cell: Settings, *names: str) -> dict[str, Any]:
    """What rows of these sources are a function of: dataset, commit, split and columns."""
    return {name: {**asdict(source(cell, name)), **_version(source(cell, name))} for name in names}


def _version(found: HubSource) -> dict[str, Any]:
    folder = Path(found.path).expanduser()
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        stats = {str(path.relative_to(folder)): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
        return {"path": stats}
    from asft.hub import resolve_commit

    return {"revision": resolve_commit(found.path, found.revision, "dataset") or found.revision}


def _prompt_rows(cell: Settings, name: str) -> list[Row]:
    found, records = source(cell, name), _records(cell, name)
    _require(records, name, [found.prompt, *([found.answer] if found.answer else []), *found.only])
    return unique(
        Row(
            id=f"{name}/{index}",
            instruction=str(record[found.prompt]),
            output=str(record[found.answer]) if found.answer else "",
            harmful=True,
        )
        for index, record in enumerate(records)
        if all(record[column] == value for column, value in found.only.items())
    )


def _records(cell: Settings, name: str) -> Any:
    """The ``datasets.Dataset`` of one source."""
    found = source(cell, name)
    return _load(found.path, found.config, found.split, found.revision, found.file, name)


@functools.lru_cache(maxsize=16)
def _load(path: str, config: str | None, split: str, revision: str, file: str | None, name: str) -> Any:
    from datasets import load_dataset

    from asft.hub import first_commit

    folder = Path(path).expanduser()
    local = folder.is_dir()
    commit = None if local else first_commit(path, revision, "dataset")
    try:
        if file is not None:
            where = str(folder / file) if local else f"hf://datasets/{path}@{commit}/{file}"
            return load_dataset(_BUILDERS[Path(file).suffix], data_files=where, split=split)
        return load_dataset(str(folder) if local else path, config, split=split, revision=commit)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"data.sources.{name}.path={path} (split {split}): cannot be read: {reason} A gated dataset needs its "
            "terms accepted on the hub and HF_TOKEN set; without a network point the path at a local copy."
        ) from error


def _require(records: Any, name: str, columns: Iterable[str]) -> None:
    if missing := [column for column in columns if column not in records.column_names]:
        raise ValueError(
            f"data.sources.{name}: no column {missing[0]}; there are: {', '.join(records.column_names)}. Name the "
            f"columns in data.sources.{name}.prompt, .answer and .only"
        )


def _sst2(key: str, record: Record) -> Row:
    return Row(key, SST2_INSTRUCTION, _SST2_LABELS[record["label"]], input=record["sentence"])


def _agnews(key: str, record: Record) -> Row:
    return Row(key, AGNEWS_INSTRUCTION, _AGNEWS_LABELS[record["label"]], input=record["text"])


def _gsm8k(key: str, record: Record) -> Row:
    return Row(key, record["question"], record["answer"].replace("####", FINAL_ANSWER))


def _alpaca(key: str, record: Record) -> Row:
    return Row(key, record["instruction"], record.get("output") or "", input=record.get("input") or "")


_TASK_ROWS: dict[str, Callable[[str, Record], Row]] = {
    "sst2": _sst2,
    "agnews": _agnews,
    "gsm8k": _gsm8k,
    "alpaca": _alpaca,
}
