"""``data=hub``: rows from datasets of the Hugging Face hub, or from local copies of them.

Which dataset, revision, split and columns is said in ``conf/data/hub.yaml``; the record schemas are in docs/data.md. No
code of a dataset's is run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import HubSource, as_plain
from asft.data.base import DataSource, Part, Task
from asft.data.gate import Record, read_records
from asft.data.rows import Row, unique
from asft.hub import first_commit
from asft.store.digest import file_digest

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def read_table(source: HubSource, key: str) -> Iterator[tuple[int, Record]]:
    """Index and record of each row that ``source.only`` lets through, in the dataset's order; ``key`` is for messages.

    ValueError when the dataset cannot be read, lacks a column of ``source.only``, or has no row to give.
    """
    there = False
    table = _load(source.path, source.config, source.split, source.revision, source.file, key)
    for index, fields in enumerate(table):
        record = fields if isinstance(fields, Record) else Record(fields, f"{key} ({source.path}), row {index}")
        if unknown := [column for column in source.only if record[column] is None]:
            raise record.wrong(unknown[0], f"known, since {key}.only asks for it")
        if all(record[column] == value for column, value in source.only.items()):
            there = True
            yield index, record
    if not there:
        asked = ", ".join(f"{column}={value!r}" for column, value in source.only.items())
        raise ValueError(f"{key} ({source.path}): no row" + (f" has {asked} ({key}.only)" if asked else " is in it"))


def table_identity(source: HubSource) -> dict[str, Any]:
    """What the rows of a source are a function of: its settings, and the contents of local files."""
    folder = Path(source.path).expanduser()
    settings: dict[str, Any] = as_plain(source)
    if not folder.exists():
        return settings
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): file_digest(path) for path in files}
    return {**settings, "path": named}


@functools.lru_cache(maxsize=16)
def _load(path: str, config: str | None, split: str, revision: str, file: str | None, key: str) -> Any:
    """The records of one local JSON file, or the ``datasets.Dataset`` of another source."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    folder = Path(path).expanduser()
    place = folder / file if file is not None and folder.is_dir() and split == "train" else folder
    if place.is_file() and _builder(place.name, key) == "json":
        return read_records(place)
    commit = None if folder.exists() else first_commit(path, revision, "dataset")
    try:
        if folder.is_file():
            kind = _builder(folder.name, key)
            words = {"keep_default_na": False, "na_values": [""]} if kind == "csv" else {}  # the word NA is a word
            return load_dataset(kind, data_files=str(folder), split="train", **words)
        if file is not None:
            where = str(folder / file) if folder.is_dir() else f"hf://datasets/{path}@{commit}/{file}"
            return load_dataset(_builder(file, key), data_files=where, split=split)
        return load_dataset(str(folder) if folder.is_dir() else path, config, split=split, revision=commit)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise ValueError(
            f"{key}.path={path} (split {split}): cannot be read: {reason} A gated dataset needs its "
            "terms accepted on the hub and HF_TOKEN set; without a network point the path at a local copy."
        ) from error


def _builder(name: str, key: str) -> str:
    if Path(name).suffix not in _BUILDERS:
        raise ValueError(f"{key}: {name} is of no known kind; allowed: {', '.join(_BUILDERS)}")
    return _BUILDERS[Path(name).suffix]


@dataclass(frozen=True)
class Hub(DataSource):
    """Attributes:
    sources: a table for each pool: ``<task>_train``, ``<task>_test``, ``evaluation``, ``safety``, each harmful source.
    """

    name: ClassVar[str] = "hub"
    sources: dict[str, HubSource] = Field(default_factory=dict)

    def task_rows(self, task: Task, part: Part) -> list[Row]:
        name = f"{task.name}_{part}"
        table = read_table(self.source(name), f"data.sources.{name}")
        return unique(task.hub_row(f"{name}/{index}", record) for index, record in table)

    def harmful(self, source: str) -> list[Row]:
        found = self.source(source)
        assert found.answer is not None, "source() sees to it"
        table = read_table(found, f"data.sources.{source}")
        return unique(
            Row(f"{source}/{index}", record.text(found.prompt), record.text(found.answer), harmful=True)
            for index, record in table
        )

    def evaluation(self) -> list[Row]:
        """All prompts, in the dataset's order; one may occur twice."""
        found = self.source("evaluation")
        table = read_table(found, "data.sources.evaluation")
        return [Row(f"evaluation/{index}", record.text(found.prompt), harmful=True) for index, record in table]

    def safety(self) -> list[Row]:
        return self.harmful("safety")

    def task_identity(self, task: Task, part: Part) -> dict[str, Any]:
        return table_identity(self.source(f"{task.name}_{part}"))

    def evaluation_identity(self) -> dict[str, Any]:
        return table_identity(self.source("evaluation"))

    def pools_identity(self, source: str) -> dict[str, Any]:
        return {name: table_identity(self.source(name)) for name in sorted({source, "safety", "evaluation"} - {"none"})}

    def source(self, name: str) -> HubSource:
        """Where a pool comes from; ValueError when ``data.sources`` lacks it, or names no answers to train on."""
        if name not in self.sources:
            raise ValueError(f"data.sources.{name}: is missing; choose data=hub, which names every source")
        found = self.sources[name]
        trained = name != "evaluation" and not name.endswith(("_train", "_test"))
        if trained and found.answer is None:
            raise ValueError(
                f"data.sources.{name}.answer=null: {found.path} has prompts and no answers to train on; point "
                f"data.sources.{name}.path at a copy that has them and name their column in data.sources.{name}.answer"
            )
        return found
