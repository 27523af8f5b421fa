"""From a composed configuration tree to a typed cell.

Below this module and :mod:`asft.cells.compose` nothing knows Hydra. A mistake of the user's ends as one
:class:`~asft.config.ConfigError` line that names the key, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import os
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from asft.cells.cell import OPTIONAL, PLUGINS, Cell
from asft.cells.checks import cross_checks
from asft.cells.job import Job
from asft.config import ConfigError, ExperimentConfig, Options, Plugin, as_plain
from asft.text import holds_secret, instead, masked

_folders: set[Path] = set()  # of plug-ins, that the user named
T = TypeVar("T")
P = TypeVar("P", bound=Plugin)

# Where a user may put a key by mistake: shown in no message.
_MAY_HOLD_SECRETS = {"api_key_env", "base_url"}
# Where pydantic's words are for programmers; names are the only texts that have a pattern.
_PLAIN = {
    "string_pattern_mismatch": "allowed are letters a to z, digits, dots, hyphens and underscores",
    "string_too_short": "must not be empty",
    "path_type": "must be one path",
    "tuple_type": "must be a list, e.g. [A,B]",
    "too_short": "must not be empty",
}


def build_job(tree: Mapping[str, Any], axes: Mapping[str, str] | None = None) -> Job:
    """Checks a resolved configuration tree (plain dicts, as Hydra composed it) and types it, or raises ConfigError."""
    without_secrets({key: f"{key}={value}" for key, value in leaves(tree)})
    values = dict(tree)
    values.pop("lam", None)  # read by the methods' YAML
    for key, kind in PLUGINS.items():
        if values.get(key) is not None or key not in OPTIONAL:
            values[key] = build_plugin(key, values.get(key), kind)
    for key in ("metrics", "beside"):
        named = values.get(key) or {}
        values[key] = _nested(key, {name: metric for name, metric in named.items() if metric is not None})
    tracker = values.pop("tracker")
    experiment = values.pop("experiment", None)
    laid_out = None if experiment is None else _validate(ExperimentConfig, experiment, "experiment")
    run = {field.name: values.pop(field.name) for field in dataclasses.fields(Options) if field.name in values}
    options = _validate(Options, run, "")
    cell = _validate(Cell, values, "")
    _check_numbers("", as_plain(cell), tree)
    cross_checks(cell, options)
    return Job(cell, options, tracker, laid_out, dict(axes or {}))


def _check_numbers(key: str, value: Any, given: Any) -> None:
    """Refuses inf and nan, which no key of a result can hold, and true and false, which pydantic takes for 1 and 0."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: must be a finite number")
    if isinstance(given, bool) and isinstance(value, int | float) and not isinstance(value, bool):
        raise ConfigError(f"{key}={str(given).lower()}: must be a number")
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    given = dict(enumerate(given)) if isinstance(given, list) else given if isinstance(given, Mapping) else {}
    for name, part in inside:
        _check_numbers(f"{key}.{name}".lstrip("."), part, given.get(name))


def without_secrets(lines: Mapping[str, str]) -> None:
    """Refuses texts (by their keys) with a secret of the environment: they are saved with results, shown on pages."""
    if holds_secret("\n".join(lines.values())):
        for key, line in lines.items():
            if name := holds_secret(line):
                raise ConfigError(
                    f"{masked(key)}: holds the value of the environment variable {name}, which would be saved with "
                    f"results. Leave it out: what needs a key is told the variable's name (judge.api_key_env={name})"
                )


def leaves(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values inside nested mappings and lists; a list's values have their positions as keys."""
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        path = f"{above}{key}"
        if isinstance(value, Mapping | list) and value:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def build_plugin(key: str, node: Any, kind: type[P]) -> P:
    """Builds a method, judge or tracker from its ``_target_``; third parties plug in here."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{key}: choose one by {key}=NAME; a {key} needs a _target_ (a class) in its YAML")
    values = {name: _nested(f"{key}.{name}", value) for name, value in node.items()}
    target = str(values.pop("_target_"))
    module, _, attribute = target.rpartition(".")
    if not _admitted(module.partition(".")[0]):
        raise ConfigError(
            f"{key}._target_={target}: must be a class derived from {kind.__module__}.{kind.__name__}, in this "
            "package, in an installed one that names itself by an entry point of the group asft.plugins, or in a "
            "folder of hydra.searchpath=[file://FOLDER]; nothing else is imported"
        )
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the plug-in's own code raises
        raise ConfigError(f"{key}._target_={target}: cannot be imported ({_where(error)})") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise ConfigError(f"{key}._target_={target}: must be a class derived from {kind.__module__}.{kind.__name__}")
    if not cls.name:
        raise ConfigError(f'{key}._target_={target}: has no name; give the class name: ClassVar[str] = "…"')
    if isinstance(cls.name, str) and values.get("name") == cls.name:  # it is there for other groups' YAML to read
        del values["name"]
    return _validate(cls, values, key)


def _where(error: Exception) -> str:
    """An error met while a plug-in was imported, behind the file and the line of the plug-in that it comes from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    told = " ".join(str(error).split())
    passed = (__file__, importlib.__file__, "<")  # our call, and Python's import machinery
    frames = [at for at in traceback.extract_tb(error.__traceback__) if not at.filename.startswith(passed)]
    if not frames:
        return told
    last = [at for at in frames if Path(at.filename).is_relative_to(Path(frames[0].filename).parent)][-1]
    return f"{last.filename}, line {last.lineno}: {type(error).__name__}: {told}"


def admit(folder: Path) -> None:
    """Lets a folder's modules be plug-ins, here and in the processes that a launcher starts."""
    _folders.add(folder)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def _admitted(root: str) -> bool:
    """Whether a top-level module may be imported for a plug-in; found out without importing it."""
    if root == "asft" or any(found.value.partition(".")[0] == root for found in entry_points(group="asft.plugins")):
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or [])] if spec else []
    files = [Path(place).resolve() for place in places if Path(place).is_absolute()]  # not "built-in" or "frozen"
    return any(file.is_relative_to(folder) for file in files for folder in _folders)


def _nested(key: str, value: Any) -> Any:
    """A setting; plug-ins that it holds (an ensemble's judges, the method that another comes after) are built first."""
    if not isinstance(value, Mapping):
        return value
    if "_target_" in value:
        return build_plugin(key, value, Plugin)
    return {name: _nested(f"{key}.{name}", part) for name, part in value.items()}


def _validate(cls: type[T], values: Mapping[str, Any], prefix: str) -> T:
    kind: Any = cls  # mypy does not see that a generic's class can be hashed
    try:
        typed: T = _adapter(kind).validate_python(values)
    except ValidationError as error:
        items = error.errors()
        told: dict[str, str] = {}
        for item in items:  # a key of several types has an error for each
            key, sentence = _sentence(item, _key(item, prefix, values), cls)
            told[key] = f"{told[key]}, or {sentence}" if key in told else sentence
        texts = [_key(item, prefix, values) for item in items if item["type"] == "string_type"]
        raise ConfigError("; ".join(f"{key}: {sentence}" for key, sentence in told.items()), texts) from None
    return typed


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    """Built once a class; building one takes as long as composing a configuration."""
    return TypeAdapter(cls)


def _sentence(item: Any, key: str, cls: type[Any]) -> tuple[str, str]:
    """One pydantic error as ``key=value`` and what is allowed."""
    name = key.rpartition(".")[2]
    if item["type"] == "unexpected_keyword_argument":
        allowed = _fields_at(cls, [str(part) for part in item["loc"]][:-1])
        return key, f"unknown key{instead(name, allowed, key.removesuffix(name))}"
    if item["type"] in {"missing", "missing_argument"}:
        return key, "is missing"
    plain = item["type"] if item.get("ctx", {}).get("min_length", 1) == 1 else ""  # "at least 2" is plain as it is
    message = _PLAIN.get(plain, item["msg"].removeprefix("Value error, "))
    value = "(hidden)" if name in _MAY_HOLD_SECRETS else textwrap.shorten(str(item["input"]), 80, placeholder=" …")
    return f"{key}={value}", message[0].lower() + message[1:]


def _key(item: Any, prefix: str, values: Any) -> str:
    """The key that a pydantic error is about, as a user writes it: where it leads nowhere, it names one of types."""
    path, lacks = [prefix] if prefix else [], item["type"] in {"missing", "missing_argument"}
    for place, part in enumerate(item["loc"], 1):
        listed = isinstance(values, list | tuple) and isinstance(part, int) and part < len(values)
        if listed or (isinstance(values, Mapping) and part in values):
            values = values[part]
        elif not (lacks and place == len(item["loc"])):
            continue
        path.append(str(part))
    return ".".join(path)


def _fields_at(cls: Any, path: list[str]) -> list[str]:
    """Field names of the dataclass that ``path`` leads to below ``cls``."""
    for part in path:
        members = getattr(cls, "__pydantic_fields__", {})
        if part in members:
            cls = members[part].annotation
        else:  # a branch of the model union, named by its source
            options: tuple[Any, ...] = getattr(cls, "__args__", ())
            cls = next((o for o in options if part in str(o.__dataclass_fields__["source"].type)), cls)
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
