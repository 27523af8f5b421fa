"""From a composed configuration tree to a typed cell.

Below this module and :mod:`asft.cells.compose` nothing knows Hydra. A mistake of the user's ends as one
:class:`~asft.config.ConfigError` line that names the key, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
import os
import sys
import textwrap
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from asft.cells.cell import OPTIONAL, PLUGINS, Cell
from asft.cells.checks import cross_checks
from asft.cells.job import Job
from asft.config import ConfigError, ExperimentConfig, Options, Plugin

_folders: set[Path] = set()  # of plug-ins, that the user named
T = TypeVar("T")
P = TypeVar("P", bound=Plugin)

# Where a user may put a key by mistake: shown in no message.
_MAY_HOLD_SECRETS = {"api_key_env", "base_url"}


def build_job(tree: Mapping[str, Any], axes: Mapping[str, str] | None = None) -> Job:
    """Checks a resolved configuration tree (plain dicts, as Hydra composed it) and types it, or raises ConfigError."""
    values = dict(tree)
    values.pop("lam", None)  # read by the methods' YAML
    for key, kind in PLUGINS.items():
        if values.get(key) is not None or key not in OPTIONAL:
            values[key] = _plugin(key, values.get(key), kind)
    values["metrics"] = _nested("metrics", values.get("metrics") or {})
    tracker = values.pop("tracker")
    experiment = values.pop("experiment", None)
    laid_out = None if experiment is None else _validate(ExperimentConfig, experiment, "experiment")
    run = {field.name: values.pop(field.name) for field in dataclasses.fields(Options) if field.name in values}
    options = _validate(Options, run, "")
    cell = _validate(Cell, values, "")
    cross_checks(cell, options)
    return Job(cell, options, tracker, laid_out, dict(axes or {}))


def _plugin(key: str, node: Any, kind: type[P]) -> P:
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
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}._target_={target}: cannot be imported ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise ConfigError(f"{key}._target_={target}: must be a class derived from {kind.__module__}.{kind.__name__}")
    if not cls.name:
        raise ConfigError(f'{key}._target_={target}: has no name; give the class name: ClassVar[str] = "…"')
    if isinstance(cls.name, str) and values.get("name") == cls.name:  # it is there for other groups' YAML to read
        del values["name"]
    return _validate(cls, values, key)


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
        return _plugin(key, value, Plugin)
    return {name: _nested(f"{key}.{name}", part) for name, part in value.items()}


def _validate(cls: type[T], values: Mapping[str, Any], prefix: str) -> T:
    kind: Any = cls  # mypy does not see that a generic's class can be hashed
    try:
        typed: T = _adapter(kind).validate_python(values)
    except ValidationError as error:
        items = error.errors()
        told = "; ".join(_sentence(item, prefix, cls) for item in items)
        raise ConfigError(told, [_key(item, prefix) for item in items if item["type"] == "string_type"]) from None
    return typed


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    """Built once a class; building one takes as long as composing a configuration."""
    return TypeAdapter(cls)


def _sentence(item: Any, prefix: str, cls: type[Any]) -> str:
    """One pydantic error as ``key=value: what is allowed``."""
    key = _key(item, prefix)
    name = key.rpartition(".")[2]
    if item["type"] == "unexpected_keyword_argument":
        allowed = _fields_at(cls, [str(part) for part in item["loc"]][:-1])
        close = difflib.get_close_matches(name, allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        return f"{key}: unknown key{hint} Allowed: {', '.join(allowed)}"
    if item["type"] in {"missing", "missing_argument"}:
        return f"{key}: is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    value = "(hidden)" if name in _MAY_HOLD_SECRETS else textwrap.shorten(str(item["input"]), 80, placeholder=" …")
    return f"{key}={value}: {message}"


def _key(item: Any, prefix: str) -> str:
    """The key that a pydantic error is about, as a user writes it."""
    path = [str(part) for part in item["loc"] if str(part) not in {"organism", "pretrained", "smollm2"}]
    return ".".join([prefix, *path] if prefix else path)


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
