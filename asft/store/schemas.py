"""What files of the store hold, one schema a kind of file, and the one place where they are read.

Whatever is on disk may come from someone else, or be damaged: it is data. A file that is too large, nests too deep,
holds a number that is not finite or has more than 64 bits, or is not what its schema says is a :class:`DamagedEntry`.
What a schema does not name is let through as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from datetime import datetime
from functools import lru_cache
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any, BinaryIO, NotRequired

from annotated_types import Ge, Le, Len
from pydantic import AfterValidator, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from asft.store.errors import DamagedEntry

DETAILS = "details.json"  # arrays behind a measure's numbers
CONFIG_FILE, HISTORY_FILE = "config.json", "history.jsonl"  # a cell's resolved configuration, a training's logs
HARMFUL_FILE, TASK_FILE = "HS.jsonl", "FA.jsonl"  # answers with their verdicts; each metric has such a file
ANSWERS_FILE, ROWS_FILE = "answers.jsonl", "rows.jsonl"  # what was answered to one metric, what is trained on

LARGEST = 2**25  # bytes of a JSON file, or of a line of JSON lines; depth is limited by the parser, to 200
_DEEPEST, _LONGEST = 8, 255  # folders below an entry, bytes of a file's name
_PLACE = re.compile(r"[^\w./\[\]-]")

Natural = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Amount = Annotated[float, Ge(0)]  # seconds, MiB
Percent = Annotated[float, Ge(0), Le(100)]
Key = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{20}\z")]
Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]


def _file_name(name: str) -> str:
    parts = name.split("/")
    if len(parts) > _DEEPEST or any(
        part in {"", ".", ".."} or "\0" in part or len(part.encode()) > _LONGEST for part in parts
    ):
        raise ValueError("is no name of a file below its entry")
    return name


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


def _interval(found: list[Any]) -> list[Any]:
    lo, hi, kind = found
    if not (is_number(lo) and is_number(hi) and isinstance(kind, str)):
        raise ValueError("is not two numbers and a word")
    return found


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number, which True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


FileName = Annotated[str, AfterValidator(_file_name)]
Moment = Annotated[str, AfterValidator(_moment)]
KeptInterval = Annotated[list[Any], Len(3, 3), AfterValidator(_interval)]


def object_of(**fields: Any) -> Any:
    """The schema of a JSON object that has these fields at least."""
    make: Any = TypedDict
    return make("Object", fields)


def list_of(item: Any, least: int = 0) -> Any:
    """The schema of a JSON list."""
    return Annotated[list.__class_getitem__(item), Len(least)]


def dict_of(item: Any, key: Any = str) -> Any:
    """The schema of a JSON object with names of any number."""
    return dict.__class_getitem__((key, item))


# Manifests: what all have (their files, and the SHA-256 of themselves), and those of entries.
SEALED = {"files": dict_of(object_of(size=Natural, sha256=Sha256), FileName), "sha256": Sha256}
Sealed = object_of(**SEALED)
_COST = {"seconds": Amount, "peak_memory_mb": Amount, "gpu_peak_memory_mb": NotRequired[Amount]}
_MADE = {"kind": str, "key": Key, "settings": dict[str, Any], "result": dict[str, Any], "created": Moment}
_FROM = {"versions": dict[str, str], "device": NotRequired[str], "commit": str | None}
_Made = object_of(**SEALED, **_COST, **_MADE, **_FROM, schema=int)


class _Summary(TypedDict):
    """What a judge or a grader says of a cell; of an ensemble that of its members, too."""

    members: NotRequired[dict[str, _Summary]]


def _counted(metric: dict[str, Any]) -> dict[str, Any]:
    if metric["count"] is not None and metric["count"] > metric["total"]:
        raise ValueError("counts more than there are")
    return metric


# What a finished cell's manifest keeps of its metrics and stages, or of what it measured.
_Metric = object_of(
    value=Percent,
    total=Natural,
    count=Natural | None,
    interval=KeptInterval | None,
    label=str,
    about=str,
    lower_is_better=bool,
    told=object_of(judge=NotRequired[_Summary], grader=NotRequired[_Summary]),
    file=Annotated[str, StringConstraints(pattern=r"\A[^/]+\.jsonl\z")],
)
_Counted: Any = Annotated[_Metric, AfterValidator(_counted)]
_StageResult = object_of(steps=NotRequired[Positive], loss=NotRequired[float], after=NotRequired[str])
_Stage = object_of(**_COST, key=Key, result=_StageResult, versions=NotRequired[dict[str, str]], device=NotRequired[str])
_RESULTS: dict[str, Any] = {
    "cells": object_of(metrics=dict_of(_Counted), stages=dict_of(_Stage)),
    "beside": _Counted,
    "measures": object_of(measure=str, values=dict[str, float], interval=KeptInterval | None),
}

# A finished cell's resolved configuration, as far as it is read again; and why a cell failed, without and with it.
_Named = object_of(name=str)
Config = object_of(
    **dict.fromkeys(("model", "protocol", "judge", "jailbreak", "backend"), _Named),
    dataset=object_of(name=str, n_test=Natural, max_new_tokens=Natural),
    attack=object_of(source=str, p=float, n=Natural),
    training=object_of(name=str, lr=float),
    method=object_of(name=str, lam=NotRequired[float | None]),
    evaluation=object_of(n_harmful=Natural, harmful_max_new_tokens=Natural),
    measure=NotRequired[object_of(name=str, direction=NotRequired[str]) | None],
    device=str,
    seed=int,
)
_WHY = {"key": str, "message": str, "time": str}
Reason = object_of(**_WHY)
Failure = object_of(**_WHY, config=Config, traceback=NotRequired[str])

# Rows: an answer as it is generated, the same with its credit and its verdict, what is trained on, a training's logs.
_ANSWER = {"id": str, "prompt": str, "gold": str, "answer": str, "asked": NotRequired[str]}
_VERDICT = {"flagged": bool, "score": float, "reason": str, "details": dict[str, Any]}
Answered = object_of(**_ANSWER)
Judged = object_of(
    **_ANSWER,
    credit=Annotated[float, Ge(0), Le(1)] | None,
    **{name: NotRequired[kind] for name, kind in _VERDICT.items()},
)
TrainingRow = object_of(**dict.fromkeys(("id", "instruction", "output", "input", "system"), str), harmful=bool)


def _logged(row: dict[str, float]) -> dict[str, float]:
    if not row.get("step", -1) >= 0:
        raise ValueError("has no step")
    return row


Logged = Annotated[dict[str, float], AfterValidator(_logged)]

# What is drawn: of landscapes by their kind, and ``spectrum.json``, which `asft anchor inspect` writes.
_Line = list_of(Percent)
_LANDSCAPES = {
    "plane": object_of(x=str, y=str, orthogonal=bool, steps=list_of(float, 2), hs=list_of(_Line)),
    "lines": object_of(along=str, steps=list[float], hs=_Line, random=list_of(_Line)),
    "epl": object_of(points=list_of(list_of(Annotated[list[float], Len(2, 2)]), 1)),
}
Spectrum = object_of(summary=str, modules=list_of(object_of(name=str, eigenvalues=list[float])))


def _landscape(details: dict[str, Any]) -> dict[str, Any]:
    """Arrays that are drawn are there, and of one length; a measure of a kind of its own may hold any."""
    kind = details.get("kind", "")
    if not isinstance(kind, str):
        raise ValueError(f"kind={kind}: allowed: a text")
    if kind in _LANDSCAPES:
        _adapter(_LANDSCAPES[kind]).validate_python(details, strict=True)
        count = len(details.get("steps", ()))
        lines = [details.get("hs", ()), *(details["hs"] if kind == "plane" else details.get("random", ()))]
        if kind != "epl" and any(len(line) != count for line in lines):
            raise ValueError("has lines that are longer or shorter than its steps")
    return details


Details = Annotated[dict[str, Any], AfterValidator(_landscape)]

_FILES: dict[tuple[str, str], Any] = {
    ("stages/mixture", ROWS_FILE): TrainingRow,
    ("stages/train", HISTORY_FILE): Logged,
    ("stages/generate", ANSWERS_FILE): Answered,
    ("cells", CONFIG_FILE): Config,
    ("measures", CONFIG_FILE): Config,
    ("measures", DETAILS): Details,
}


def check_entry(folder: Path, kind: str, manifest: Mapping[str, Any]) -> None:
    """Whether an entry's manifest is one of its kind, and names the files that its readers want.

    Raises:
        DamagedEntry: naming the folder and what is wrong.
    """
    _checked(manifest, _Made, folder)
    if kind in _RESULTS:
        result = _checked(manifest["result"], _RESULTS[kind], folder)
        scored = [result] if kind == "beside" else result.get("metrics", {}).values()
        wanted = [*(file for of, file in _FILES if of == kind), *(metric["file"] for metric in scored)]
        if missing := [file for file in wanted if file not in manifest["files"]]:
            raise DamagedEntry(f"{folder}: has no {missing[0]}")


def check_file(folder: Path, kind: str, file: str) -> None:
    """Whether a file of an entry is what its readers want; files that only other programs read are let through.

    Raises:
        DamagedEntry: naming the file and what is wrong.
    """
    schema = _FILES.get((kind, file)) or (Judged if kind in ("cells", "beside") and file.endswith(".jsonl") else None)
    if schema is not None and file.endswith(".jsonl"):
        for _ in read_rows(folder / file, schema):
            pass
    elif schema is not None:
        read_document(folder / file, schema)


def read_document(path: Path, schema: Any) -> Any:
    """What a JSON file holds: an instance where ``schema`` is a dataclass, else the plain data.

    Raises:
        DamagedEntry: naming the file and what is wrong with it.
    """
    with _opened(path) as file:
        return parse(file.read(LARGEST + 1), schema, path)


def read_rows(path: Path, schema: Any) -> Iterator[Any]:
    """As :func:`read_document`, line by line."""
    with _opened(path) as file:
        for line in iter(lambda: file.readline(LARGEST + 1), b""):
            yield parse(line, schema, path)


def parse(data: bytes, schema: Any, path: Path) -> Any:
    """As :func:`read_document`, of what was read from ``path``."""
    if len(data) > LARGEST:
        raise DamagedEntry(f"{path}: is larger than {LARGEST // 2**20} MiB, or has a line that is")
    try:
        value = from_json(data)
    except ValueError as error:  # neither UTF-8 nor JSON, or too deep
        raise DamagedEntry(f"{path}: is not JSON ({error})") from None
    _check_numbers(value, path)
    adapter = _adapter(schema)
    if is_dataclass(schema):
        return _validated(adapter.validate_json, data, path)
    return _checked(value, schema, path)


def _checked(value: Any, schema: Any, path: Path) -> Any:
    _validated(_adapter(schema).validate_python, value, path)
    return value


def _validated(validate: Any, data: Any, path: Path) -> Any:
    try:
        return validate(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = _PLACE.sub("?", ".".join(map(str, first["loc"])))[:80]
        raise DamagedEntry(f"{path}: {place}: {first['msg']}".replace(": :", ":")) from None


@lru_cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _opened(path: Path) -> BinaryIO:
    try:
        if S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedEntry(f"{path}: is missing") from None
    raise DamagedEntry(f"{path}: is no plain file")


def _check_numbers(value: Any, path: Path) -> None:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif (type(value) is float and not isfinite(value)) or (type(value) is int and not -(2**63) <= value < 2**63):
            raise DamagedEntry(f"{path}: holds a number that is not finite, or too large")
