"""Reading tables: datasets of the Hugging Face hub, local copies of them, or files. No code of a dataset's is run."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from asft.config import HubSource, as_plain
from asft.store.digest import file_digest

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def read_table(source: HubSource, key: str, columns: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and record of each row that ``source.only`` lets through, in the dataset's order.

    Args:
        key: the configuration's key of the source, for messages.
        columns: those that must be there.

    Raises:
        ValueError: when the dataset cannot be read or lacks a column.
    """
    table = _load(source.path, source.config, source.split, source.revision, source.file, key)
    if missing := [column for column in (*columns, *source.only) if column not in table.column_names]:
        raise ValueError(
            f"{key}: no column {missing[0]}; there are: {', '.join(table.column_names)}. Name the columns in "
            f"{key}.prompt, .answer and .only"
        )
    for index, record in enumerate(table):
        if all(record[column] == value for column, value in source.only.items()):
            yield index, record


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
    """The ``datasets.Dataset`` of one source."""
    from datasets import load_dataset

    from asft.hub import first_commit

    folder = Path(path).expanduser()
    commit = None if folder.exists() else first_commit(path, revision, "dataset")
    try:
        if folder.is_file():
            return load_dataset(_builder(folder.name, key), data_files=str(folder), split="train")
        if file is not None:
            where = str(folder / file) if folder.is_dir() else f"hf://datasets/{path}@{commit}/{file}"
            return load_dataset(_builder(file, key), data_files=where, split=split)
        return load_dataset(str(folder) if folder.is_dir() else path, config, split=split, revision=commit)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{key}.path={path} (split {split}): cannot be read: {reason} A gated dataset needs its "
            "terms accepted on the hub and HF_TOKEN set; without a network point the path at a local copy."
        ) from error


def _builder(name: str, key: str) -> str:
    if Path(name).suffix not in _BUILDERS:
        raise ValueError(f"{key}: {name} is of no known kind; allowed: {', '.join(_BUILDERS)}")
    return _BUILDERS[Path(name).suffix]
