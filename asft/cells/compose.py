"""Composing configurations with Hydra, and enumerating the cells of a sweep.

The sweep and the report enumerate cells through :func:`enumerate_cells` and Hydra's own sweep axes, so they
cannot drift apart. Only this module, :mod:`asft.cli` and ``scripts/`` know Hydra.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from asft.cells.build import build_cell
from asft.cells.cell import CellConfig
from asft.config import ConfigError

CONFIG_NAME = "config"


def threads_per_worker(workers: int) -> int:
    """Threads for each of so many workers on this machine's cores, unless OMP_NUM_THREADS says it already."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, cores // max(1, workers))


# The launchers' YAML files ask for it; not cached, since a worker may run on another machine.
OmegaConf.register_new_resolver("threads_per_worker", threads_per_worker, replace=True)


def config_dir() -> Path:
    """The folder of YAML files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class SweepCell:
    """One cell of a sweep: where it stands on the axes, and its configuration."""

    axes: dict[str, str]
    cell: CellConfig


@dataclass(frozen=True)
class Sweep:
    """All cells of a command line, in launch order; ``axes`` holds each axis' values as written."""

    axes: dict[str, list[str]]
    cells: list[SweepCell]


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed job configuration as resolved plain data.

    Raises:
        ConfigError: for a value still missing (``???``) or an interpolation that leads nowhere.
    """
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(tree, dict), "the root of a configuration is a mapping"
    return {str(key): value for key, value in tree.items() if key != "hydra"}


def enumerate_cells(overrides: Sequence[str], *, sweep: bool) -> Sweep:
    """The cells that a command line stands for.

    Args:
        overrides: Hydra overrides, e.g. ``["experiment=table2", "method=sft,asft"]``.
        sweep: whether to expand the axes (``-m``); otherwise there is one cell.

    Raises:
        ConfigError: for anything that does not compose or does not type.
    """
    with _hydra():
        parsed = _parse(overrides)
        fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
        swept = {override.get_key_element(): override for override in parsed if override.is_sweep_override()}
        if swept and not sweep:
            raise ConfigError(f"{', '.join(swept)}: several values are a sweep; add -m (--multirun)")
        params: dict[str, Any] = {}
        if sweep:
            base = _compose(fixed + [f"{key}={_values(override)[0]}" for key, override in swept.items()], True)
            params = dict(base.hydra.sweeper.get("params") or {})
        given = {override.get_key_element(): override for override in parsed}
        axes = {key: _values(given.get(key) or _parse([f"{key}={value}"])[0]) for key, value in params.items()}
        axes |= {key: _values(override) for key, override in swept.items()}
        fixed = [text for text in fixed if text.partition("=")[0] not in axes]
        return Sweep(axes, [SweepCell(chosen, build_cell(tree)) for chosen, tree in _trees(fixed, axes)])


def _trees(fixed: list[str], axes: dict[str, list[str]]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Each combination of the axes with its resolved configuration, the last axis fastest.

    Hydra takes tens of milliseconds to compose a configuration. It is asked once for each choice of config
    groups; between cells that differ in plain values alone, these are set on the composed tree, as Hydra does
    after composing.
    """
    values = {key: _plain_values(key, texts) for key, texts in axes.items()}
    composed: dict[tuple[str, ...], DictConfig] = {}
    for texts in itertools.product(*axes.values()):
        chosen = dict(zip(axes, texts, strict=True))
        groups = tuple(text for key, text in chosen.items() if values[key] is None)
        if groups not in composed:
            composed[groups] = _compose([*fixed, *(f"{key}={text}" for key, text in chosen.items())], False)
        tree = composed[groups]
        for key, text in chosen.items():
            if (known := values[key]) is not None:
                OmegaConf.update(tree, key, known[text])
        yield chosen, plain(tree)


def _plain_values(key: str, texts: list[str]) -> dict[str, Any] | None:
    """The values of an axis by their texts; None where Hydra has to compose: a group, an addition, a mapping."""
    if not re.fullmatch(r"[\w.]+", key) or GlobalHydra.instance().config_loader().get_group_options(key):
        return None
    values = {text: _parse([f"{key}={text}"])[0].value() for text in texts}
    return None if any(isinstance(value, dict) for value in values.values()) else values


def overrides_of(arguments: Sequence[str], flags: Collection[str] | None = ("-m", "--multirun")) -> list[str]:
    """The Hydra overrides of a command line.

    Args:
        flags: those that the command knows; None lets any pass, as ``asft run`` does, whose flags are Hydra's.

    Raises:
        ConfigError: for an argument that is neither an override nor a known flag.
    """
    given = [argument for argument in arguments if argument.startswith("-")]
    if flags is not None and (unknown := [flag for flag in given if flag.partition("=")[0] not in flags]):
        raise ConfigError(f"{unknown[0]}: unknown flag; allowed: {', '.join(flags)}, and KEY=VALUE")
    words = [argument for argument in arguments if not argument.startswith("-")]
    if strays := [word for word in words if "=" not in word and not word.startswith("~")]:
        raise ConfigError(f"{strays[0]}: not of the form KEY=VALUE, e.g. experiment=table2")
    return words


def _hydra() -> Any:
    GlobalHydra.instance().clear()
    return initialize_config_dir(str(config_dir()), version_base="1.3")


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            raise ConfigError(f"{text}: {one_line(error)}") from error
    return parsed


def _compose(overrides: list[str], hydra_too: bool) -> DictConfig:
    try:
        return compose(CONFIG_NAME, overrides=overrides, return_hydra_config=hydra_too)
    except YAMLError as error:
        raise ConfigError(f"a YAML file cannot be read: {one_line(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        if match := re.search(r"Could not override '([^']+)'", str(error)):
            raise ConfigError(_unknown_key(match[1], overrides)) from error
        raise ConfigError(one_line(error)) from error


def _unknown_key(key: str, overrides: list[str]) -> str:
    """Names the keys that stand where a misspelt one was given."""
    rest = [text for text in overrides if text.partition("=")[0] != key]
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(_compose(rest, False), parent) if parent else _compose(rest, False)
    allowed = [str(child) for child in node] if isinstance(node, DictConfig) else []
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"{key}: unknown key{hint} Allowed: {', '.join(allowed) or 'nothing below ' + parent}"


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
            raise ConfigError(f"{override.input_line}: list the values, e.g. {override.key_or_group}=a,b,c")
        try:
            return [str(value) for value in override.sweep_string_iterator()]
        except (HydraException, NotImplementedError) as error:
            raise ConfigError(f"{override.input_line}: {one_line(error)}") from error
    return [str(override.get_value_element_as_str())]


# A launcher of Hydra's that one of ours (conf/hydra/launcher) is built on: ours, and the extra that brings it.
_LAUNCHERS = {
    "joblib": ("workers", "joblib"),
    "ray": ("ray_workers", "ray"),
    "submitit_local": ("jobs", "slurm"),
    "submitit_slurm": ("slurm", "slurm"),
}


def one_line(error: Exception) -> str:
    """Hydra's message in one line, in our words where its words are for programmers."""
    text = str(error).strip()
    # "Could not load" where one of ours was chosen, "Could not find" where the one that it is built on was.
    lacking = re.search(r"Could not (?:load|find) 'hydra/launcher/([^']+)'", text)
    if lacking and lacking[1] in _LAUNCHERS:
        ours, extra = _LAUNCHERS[lacking[1]]
        return f'hydra/launcher={ours}: needs another package: pip install "asft-lab[{extra}]"'
    if match := re.search(
        r"Could not find '(.+?)/([^'/]+)'\s+Available options in '[^']+':\s*(.*?)(?:\s+Config search path|$)",
        text,
        re.S,
    ):
        return f"{match[1]}={match[2]}: unknown. Allowed: {', '.join(match[3].split())}"
    if leads_nowhere := re.match(r"Interpolation key '(.+?)' not found\s+full_key: (\S+)", text):
        return f"{leads_nowhere[2]}: is taken from {leads_nowhere[1]}, which is not set"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: must be given"
    return " ".join(text.split())
