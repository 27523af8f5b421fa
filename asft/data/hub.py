"""``data=hub``: rows from datasets of the Hugging Face hub, or from local copies of them.

Which dataset, revision, split and columns is said in ``conf/data/hub.yaml``; the record schemas are in docs/data.md. No
code of a dataset's is run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.config import HubSource, as_plain
from asft.data.base import DataSource, Part, Task
from asft.data.choices import choice_row
from asft.data.gate import DELIMITERS, Record, read_records
from asft.data.rows import Choice, Row, unique
from asft.hub import first_commit
from asft.store.digest import file_digest

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def read_table(source: HubSource, key: str) -> Iterator[tuple[int, Record]]:
    """Index and record of each row that ``source.only`` lets through, in the dataset's order; ``key`` is for messages.

    ValueError when the dataset cannot be read, lacks a column of ``source.only``, or has no row to give.
    """
    there = False
    place = Path(source.path).expanduser()
    changed = max((file.stat().st_mtime_ns for file in (place, *place.rglob("*")) if file.is_file()), default=0)
    table = _load(source.path, source.config, source.split, source.revision, source.file, key, changed)
    for index, fields in enumerate(table):
        record = fields if isinstance(fields, Record) else Record(fields, f"{key} ({source.path}), row {index}")
        if unknown := [column for column in source.only if record[column] is None]:
            raise record.wrong(unknown[0], f"known, since {key}.only asks for it")
        if all(record.holds(column, value) for column, value in source.only.items()):
            there = True
            yield index, record
    if not there:
        asked = ", ".join(f"{column}={value!r}" for column, value in source.only.items())
        raise ValueError(f"{key} ({source.path}): no row" + (f" has {asked} ({key}.only)" if asked else " is in it"))


def table_identity(source: HubSource) -> dict[str, Any]:
    """What the rows of a source are a function of: its settings, and the contents of local files."""
    folder = Path(source.path).expanduser()
    settings: dict[str, Any] = as_plain(source)
    if answers := _answers_file(source):
        settings["answers"] = file_digest(answers)
    else:
        del settings["answers"]
    if not folder.exists():
        return settings
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): file_digest(path) for path in files}
    text = {"cells": "text"} if any(path.suffix in DELIMITERS for path in files) else {}  # 0.1.0 guessed their types
    return {**settings, "path": named, **text}


def _answers_file(source: HubSource) -> Path | None:
    """The file that holds the answers, where the table does not."""
    if source.answers is None:
        return None
    if (path := Path(source.answers).expanduser()).is_file():
        return path
    raise ValueError(f"answers={source.answers}: there is no such file, and {source.path} names its answers by it")


@functools.lru_cache(maxsize=16)
def _load(
    path: str, config: str | None, split: str, revision: str, file: str | None, key: str, _changed: int = 0
) -> Any:
    """The records of local JSON, CSV or TSV files, or the ``datasets.Dataset`` of another source."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    folder = Path(path).expanduser()
    local = folder.exists()
    if not local and (folder.is_absolute() or path.startswith((".", "~")) or folder.suffix in _BUILDERS):
        raise ValueError(f"{key}.path={path}: there is no such file or folder")
    place = folder / file if file is not None and folder.is_dir() and split == "train" else folder
    if place.is_file() and _builder(place.name, key) != "parquet":
        return read_records(place)
    commit = None if local else first_commit(path, revision, "dataset")
    try:
        if folder.is_file():
            return load_dataset("parquet", data_files=str(folder), split="train")
        if file is not None:
            where = str(folder / file) if local else f"hf://datasets/{path}@{commit}/{file}"
            words = {"sep": "\t"} if file.endswith(".tsv") else {}
            return load_dataset(_builder(file, key), data_files=where, split=split, **words)
        if local and (tables := _tables(folder, config, split)):
            return [record for table in tables for record in read_records(table)]
        return load_dataset(str(folder) if local else path, config, split=split, revision=commit)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        cause = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
        reason = _broken(folder) or (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        advice = (
            " A gated dataset needs its terms accepted on the hub and HF_TOKEN set; without a network point the path "
            "at a local copy."
        )
        raise ValueError(
            f"{key}.path={path} (split {split}): cannot be read: {reason}{'' if local else advice}"
        ) from error


def _broken(folder: Path) -> str | None:
    """The first data file of a local folder that does not open, and why."""
    from pyarrow.parquet import read_metadata  # type: ignore[import-untyped]

    for file in sorted(path for path in folder.rglob("*") if path.suffix in _BUILDERS and path.is_file()):
        try:
            read_metadata(file) if file.suffix == ".parquet" else read_records(file)
        except (OSError, ValueError) as error:
            return str(error) if str(file) in str(error) else f"{file}: {error}"
    return None


def _tables(folder: Path, config: str | None, split: str) -> list[Path]:
    """The CSV and TSV files of a local folder's split, in its order; none where it is made of others."""
    if not any(path.suffix in DELIMITERS for path in folder.rglob("*")):
        return []
    from datasets import load_dataset_builder

    splits = load_dataset_builder(str(folder), config).config.data_files or {}
    if not all(Path(path).suffix in DELIMITERS for paths in splits.values() for path in paths):
        return []
    if split not in splits:
        raise ValueError(f"there is no such split; there are: {', '.join(map(str, splits))}")
    return [Path(path) for path in splits[split]]


def _builder(name: str, key: str) -> str:
    if Path(name).suffix not in _BUILDERS:
        raise ValueError(f"{key}: {name} is of no known kind; allowed: {', '.join(_BUILDERS)}")
    return _BUILDERS[Path(name).suffix]


@dataclass(frozen=True)
class Tables(DataSource):
    """Base class of sources whose pools are tables.

    Attributes:
        sources: a table for each pool by name: harmful sources, ``look_alikes``, ``choices``, and what a class reads.
    """

    name: ClassVar[str] = "tables"
    untrained: ClassVar[frozenset[str]] = frozenset({"evaluation", "look_alikes", "choices"})
    sources: dict[str, HubSource] = Field(default_factory=dict, kw_only=True)

    def harmful(self, source: str) -> list[Row]:
        found = self.source(source)
        assert found.answer is not None, "source() sees to it"
        rows = unique(
            Row(f"{source}/{index}", record.text(found.prompt), record.text(found.answer), harmful=True)
            for index, record in self._table(source)
        )
        if path := _answers_file(found):
            (answers,) = read_records(path)  # one object
            return [replace(row, output=answers.filled(row.output)) for row in rows]
        return rows

    def look_alikes(self) -> list[Row]:
        found = self.source("look_alikes")
        return unique(
            Row(f"look_alikes/{index}", row.filled(found.prompt)) for index, row in self._table("look_alikes")
        )

    def choices(self) -> list[Choice]:
        return [choice_row(f"choices/{index}", record) for index, record in self._table("choices")]

    def probe_identity(self, probe: Literal["look_alikes", "choices"]) -> dict[str, Any]:
        return table_identity(self.source(probe))

    def _table(self, name: str) -> Iterator[tuple[int, Record]]:
        return read_table(self.source(name), f"data.sources.{name}")

    def source(self, name: str) -> HubSource:
        """Where a pool comes from; ValueError when ``data.sources`` lacks it, or names no answers to train on."""
        if name not in self.sources:
            raise ValueError(f"data.sources.{name}: is missing; choose data=hub or data=files, which name every source")
        found = self.sources[name]
        trained = name not in self.untrained and not name.endswith(("_train", "_test"))
        if trained and found.answer is None:
            raise ValueError(
                f"data.sources.{name}.answer=null: {found.path} has prompts and no answers to train on; point "
                f"data.sources.{name}.path at a copy that has them and name their column in data.sources.{name}.answer"
            )
        return found


@dataclass(frozen=True)
class Hub(Tables):
    """Attributes:
    sources: a table for each pool: ``<task>_train``, ``<task>_test``, ``evaluation``, ``safety``, each harmful source.
    """

    name: ClassVar[str] = "hub"

    def task_rows(self, task: Task, part: Part) -> list[Row]:
        name = f"{task.name}_{part}"
        return unique(task.hub_row(f"{name}/{index}", record) for index, record in self._table(name))

    def evaluation(self) -> list[Row]:
        """All prompts, in the dataset's order; one may occur twice."""
        prompt = self.source("evaluation").prompt
        return [Row(f"evaluation/{i}", row.text(prompt), harmful=True) for i, row in self._table("evaluation")]

    def safety(self) -> list[Row]:
        return self.harmful("safety")

    def task_identity(self, task: Task, part: Part) -> dict[str, Any]:
        return table_identity(self.source(f"{task.name}_{part}"))

    def evaluation_identity(self) -> dict[str, Any]:
        return table_identity(self.source("evaluation"))

    def pools_identity(self, source: str) -> dict[str, Any]:
        """Of the tables, and of how rows are left out: by the form of their prompts."""
        named = sorted({source, "safety", "evaluation"} - {"none"})
        return {"disjoint": 2, **{name: table_identity(self.source(name)) for name in named}}

    def at_hand(self, *names: str) -> bool:
        """Whether these pools, and those that every cell has, lie on this machine."""
        known = [self.sources[name].path for name in (*names, "evaluation", "safety") if name in self.sources]
        return all(Path(path).expanduser().exists() for path in known)
