"""Composing configurations with Hydra, and enumerating the cells of a sweep.

The sweep and the report enumerate cells through :func:`enumerate_cells` and Hydra's own sweep axes, so they
cannot drift apart. Only this module, :mod:`asft.cli` and ``scripts/`` know Hydra.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import YAMLError

from asft.cells.build import admit, build_job, leaves, without_secrets
from asft.cells.job import Job
from asft.config import ConfigError
from asft.text import instead

T = TypeVar("T")
CONFIG_NAME = "config"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_asked() -> int | None:
    """What OMP_NUM_THREADS says, of a list for nested loops (4,2) the first; None where it is not set."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if text and not (text.isdecimal() and int(text)):
        raise ConfigError(f"OMP_NUM_THREADS={text}: must be a number of threads, 1 or more")
    return int(text) if text else None


def threads_per_worker(workers: int) -> int:
    """Threads for each of so many workers on this machine's cores, unless OMP_NUM_THREADS says it already."""
    return threads_asked() or max(1, cores() // max(1, workers))


# The launchers' YAML files ask for it; not cached, since a worker may run on another machine.
OmegaConf.register_new_resolver("threads_per_worker", threads_per_worker, replace=True)


def rows_below(root: str | None) -> str:
    """The data source that ``data.root`` stands for."""
    return "asft.data.world.source.World" if root is None else "asft.data.files.Files"


OmegaConf.register_new_resolver("rows_below", rows_below, replace=True)


def _refused(name: str, *_: Any) -> Any:
    """Stands for ``oc.env``: a variable's value comes to lie in manifests, pages and archives, and may be a secret."""
    raise ConfigError(
        f"${{oc.env:{name}}} would be saved with results and may be a secret: write ${{public_env:{name}}} if it "
        "is none. Plug-ins are told a key's variable by its name, and read it when they need it"
    )


@contextmanager
def no_variables() -> Iterator[None]:
    """Refuses ``oc.env`` in what is composed inside the block."""
    OmegaConf.register_new_resolver("oc.env", _refused, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


OmegaConf.register_new_resolver("public_env", oc.env, replace=True)


def config_dir() -> Path:
    """The folder of YAML files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class Sweep:
    """All cells of a command line, in launch order.

    Attributes:
        axes: each axis' values as written; of an experiment made of several sweeps those of all.
        overrides: those of the first cell, by which launchers are configured.
    """

    axes: dict[str, list[str]]
    cells: list[Job]
    overrides: tuple[str, ...] = ()

    @property
    def launcher(self) -> str:
        """The launcher that the command line names; ``basic`` where it names none."""
        words = dict(text.lstrip("+").partition("=")[::2] for text in self.overrides)
        return words.get("hydra/launcher", "basic")


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed configuration as resolved data; ConfigError for a missing value (``???``) or interpolation."""
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(tree, dict), "the root of a configuration is a mapping"
    return {str(key): value for key, value in tree.items() if key != "hydra"}


def enumerate_cells(overrides: Sequence[str], *, sweep: bool) -> Sweep:
    """The cells that a command line stands for.

    A value that reads as a number (the commit 12e4567) is a text where its key wants one.

    Args:
        overrides: Hydra overrides, e.g. ``["experiment=table2", "method=sft,asft"]``.
        sweep: whether to expand the axes (``-m``); otherwise there is one cell.

    Raises:
        ConfigError: for anything that does not compose or does not type.
    """
    try:
        return _enumerate(overrides, sweep)
    except ConfigError as error:
        as_texts = [_quoted(text) if text.partition("=")[0] in error.texts else text for text in overrides]
        if as_texts == list(overrides):
            raise
        return _enumerate(as_texts, sweep)


_ONE = (
    "name one at a time here; several, with commas, are for `asft run -m`, report, plan, status, store, doctor, track "
    "and dashboard"
)


def one_by_one(overrides: Sequence[str]) -> list[list[str]]:
    """The command lines of the experiments that one names together (``experiment=table2,table5``), each by itself.

    One that names a single experiment, or none, is left as it is.
    """
    names, others = experiments_in(overrides)
    lines = [[f"experiment={name}", *others] for name in names]
    return lines if len(lines) > 1 or (lines and {*lines[0]} != {*overrides}) else [list(overrides)]


def experiments_in(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The experiments that a command line names, each once, and its other words."""
    words = [text for text in overrides if text.startswith("experiment=")]
    names = dict.fromkeys(name for text in words for name in _names(text))
    return list(names), [text for text in overrides if text not in words]


def _names(text: str) -> list[str]:
    """The choices of a group that an override has, as Hydra reads it; what it cannot read is one."""
    try:
        value = OverridesParser.create().parse_override(text).value()
    except HydraException:
        return [text.partition("=")[2]]
    choices = value.list if isinstance(value, ChoiceSweep) else [value]
    return [choice.text if isinstance(choice, QuotedString) else str(choice) for choice in choices]


def enumerate_each(overrides: Sequence[str]) -> list[Sweep]:
    """The sweep of every experiment that a command line names.

    Raises:
        ConfigError: as :func:`enumerate_cells`; of one of several it says of which.
    """
    lines, sweeps = one_by_one(overrides), list[Sweep]()
    for words in lines:
        try:
            sweeps.append(enumerate_cells(words, sweep=True))
        except ConfigError as error:
            if len(lines) == 1 or str(error).startswith("experiment="):
                raise
            raise ConfigError(f"{words[0]}: {error}") from error
    return sweeps


def enumerate_all(overrides: Sequence[str]) -> Sweep:
    """Their cells, experiment after experiment, as one sweep; it lays out no table."""
    sweeps = enumerate_each(overrides)
    axes: dict[str, list[str]] = {}
    for sweep in sweeps:
        for axis, values in sweep.axes.items():
            axes[axis] = list(dict.fromkeys([*axes.get(axis, []), *values]))
    return Sweep(axes, [job for sweep in sweeps for job in sweep.cells], sweeps[0].overrides)


def _enumerate(overrides: Sequence[str], sweep: bool) -> Sweep:
    with _hydra(overrides):
        parsed = _parse(overrides)
        fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
        swept = {override.get_key_element(): override for override in parsed if override.is_sweep_override()}
        if sum(override.get_key_element() == "experiment" for override in parsed) > 1:
            raise ConfigError(f"experiment is named twice; {_ONE}")
        if swept and not sweep:
            raise ConfigError(
                f"{', '.join(swept)}: several values are a sweep; add -m (--multirun), or quote a comma of the value's "
                "own: \"KEY='A,B'\""
            )
        if "experiment" in swept:
            raise ConfigError(f"{swept['experiment'].input_line}: {_ONE}")
        params: dict[str, Any] = {}
        parts: list[dict[str, Any]] = [{}]
        if sweep:
            groups = {key: override for key, override in swept.items() if "." not in key}  # settings change no axes
            base = _compose(fixed + [f"{key}={_values(override)[0]}" for key, override in groups.items()], True)
            params = dict(base.hydra.sweeper.get("params") or {})
            parts = list(((base.get("experiment") or {}).get("sweeps") or {"": {}}).values())
        given = {override.get_key_element(): override for override in parsed}
        shared = {key: _values(given.get(key) or _parse([f"{key}={value}"])[0]) for key, value in params.items()}
        apart = {str(key) for part in parts for key in part} - {*params}
        shared |= {key: _values(override) for key, override in swept.items() if key not in apart}
        whole, jobs, first = {key: list(texts) for key, texts in shared.items()}, list[Job](), tuple[str, ...]()
        for part in parts:
            own = {key: _values(_parse([f"{key}={value}"])[0]) for key, value in part.items()}
            for key in own.keys() & given.keys():  # the command line chooses among an experiment's values
                own[key] = [text for text in own[key] if text in _values(given[key])]
            axes = shared | own
            if not all(axes.values()):
                continue
            rest = [text for text in fixed if text.partition("=")[0] not in axes]
            if not jobs:
                first = (*rest, *(f"{key}={texts[0]}" for key, texts in axes.items()))
            jobs += [build_job(tree, chosen) for chosen, tree in _trees(rest, axes)]
            for key, texts in own.items():
                whole[key] = list(dict.fromkeys([*whole.get(key, []), *texts]))
        if not jobs:
            raise ConfigError(f"{' '.join(overrides)}: none of the experiment's sweeps has such cells")
        return Sweep(whole, jobs, first)


def launch(sweep: Sweep, keys: Sequence[str], task: Callable[[DictConfig], T]) -> list[T]:
    """Hands the launcher that the sweep names one job a key, and returns what the jobs have returned.

    ``task`` finds the key as ``job`` in what it is given.

    Cells are typed once, here: ``task`` carries them to the launcher's workers, which compose none. HydraException is
    what a launcher has to say.
    """
    with _hydra(sweep.overrides):
        hydra = GlobalHydra.instance().hydra
        config = hydra.compose_config(CONFIG_NAME, list(sweep.overrides), run_mode=RunMode.MULTIRUN)
        # Where a job's log lies is known when the job runs.
        check_ours(OmegaConf.merge(config, {"hydra": {"runtime": {"output_dir": "."}}}).hydra)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callback())
        launcher = Plugins.instance().instantiate_launcher(context, task, config)
        # return_value raises what the job raised.
        return [done.return_value for done in launcher.launch([[f"+job='{key}'"] for key in keys], initial_job_idx=0)]


def _trees(
    fixed: list[str], axes: dict[str, list[str]], mixed: Collection[str] = ()
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Each combination of the axes with its resolved configuration, the last axis fastest.

    Hydra takes a tenth of a second to compose a configuration. It is asked once for all choices of the groups that
    keep to themselves: these are laid aside, and put in cell by cell. Of other groups (``mixed`` are known to be
    such) it is asked for each choice. Plain values are set on the composed tree, as Hydra does after composing.
    """
    values = {key: _plain_values(key, texts) for key, texts in axes.items()}
    inner = {
        re.split("[.@]", text.lstrip("+~"))[0] for text in [*fixed, *axes] if re.search("[.@]", text.split("=")[0])
    }
    groups = [key for key in axes if values[key] is None]
    apart = [key for key in groups if key not in {*inner, *mixed} and _keeps_to_itself(key, axes[key])]
    aside = [f"+{key}@_aside.{key}.v{index}={text}" for key in apart for index, text in enumerate(axes[key])]
    composed: dict[tuple[str, ...], tuple[DictConfig, set[str]]] = {}
    resolved: dict[tuple[str, ...], dict[str, Any]] = {}
    for texts in itertools.product(*axes.values()):
        chosen = dict(zip(axes, texts, strict=True))
        rest = {key: text for key, text in chosen.items() if key not in apart}
        choice = tuple(text for key, text in rest.items() if key in groups)
        if choice not in composed:
            stated = [f"~{key}" for key in apart] + [f"{key}={text}" for key, text in rest.items()]
            tree = _compose([*fixed, *stated, *aside], False)
            if named := [key for key in apart if key in tree]:  # a file beside the group's own has a say in it
                yield from _trees(fixed, axes, {*mixed, *named})
                return
            composed[choice] = tree, _interpolated(OmegaConf.to_container(tree))
        tree, interpolated = composed[choice]
        alone = {}  # values that nothing else is taken from
        for key, text in chosen.items():
            if key in apart:
                part = tree["_aside"][key][f"v{axes[key].index(text)}"]
                OmegaConf.update(tree, key, part, merge=False, force_add=True)
            elif (known := values[key]) is not None:
                OmegaConf.update(tree, key, known[text])
                if interpolated.isdisjoint(key.split(".")) and not isinstance(known[text], str):
                    alone[key] = known[text]
        like = tuple(text for key, text in chosen.items() if key not in alone)
        if like not in resolved:
            resolved[like] = plain(tree)
            resolved[like].pop("_aside", None)
        found = resolved[like]
        for key, value in alone.items():
            found = _with(found, key.split("."), value)
        yield chosen, found


def _keeps_to_itself(group: str, names: Sequence[str]) -> bool:
    """Whether the files of a group's choices, and those that they begin with, set nothing outside the group."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    names = list(names)
    for name in names:  # grows by what they begin with
        source = next((source for source in sources if source.is_config(f"{group}/{name}")), None)
        if source is None:
            return False
        file = source.load_config(f"{group}/{name}")
        begins: list[Any] = list(file.config.get("defaults", [])) if isinstance(file.config, DictConfig) else [None]
        # A part of its own group (the method that another comes after) stays inside as well: {/method@after: sft}.
        begins = [next(iter(item.values())) if _is_part(item, group) else item for item in begins]
        if file.header["package"] or not all(isinstance(item, str) and re.fullmatch(r"\w+", item) for item in begins):
            return False
        names += [item for item in begins if item not in {"_self_", *names}]
    return True


def _is_part(item: Any, group: str) -> bool:
    return isinstance(item, Mapping) and len(item) == 1 and bool(re.fullmatch(rf"/{group}@\w+", str(next(iter(item)))))


def _interpolated(node: Any) -> set[str]:
    """Every word of the strings that hold an interpolation."""
    if isinstance(node, str):
        return set(re.findall(r"\w+", node)) if "${" in node else set()
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return set().union(*map(_interpolated, inside))


def _with(tree: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of plain data with another value at one place."""
    return {**tree, path[0]: _with(tree[path[0]], path[1:], value) if path[1:] else value}


def _plain_values(key: str, texts: list[str]) -> dict[str, Any] | None:
    """The values of an axis by their texts; None where Hydra has to compose: a group, an addition, a mapping."""
    if not re.fullmatch(r"[\w.]+", key) or GlobalHydra.instance().config_loader().get_group_options(key):
        return None
    values = {text: _parse([f"{key}={text}"])[0].value() for text in texts}
    return None if any(isinstance(value, dict) for value in values.values()) else values


@contextmanager
def _hydra(overrides: Sequence[str]) -> Iterator[None]:
    """Hydra on this package's configuration and on what third parties add to it.

    A folder named in ``hydra.searchpath=[file://FOLDER]`` holds YAML below it (``FOLDER/method/mine.yaml``) and the
    modules that they name (``FOLDER/mine.py``). An installed package says the same by an entry point of the group
    ``asft.plugins``, whose value is a module with YAML beside it.
    """
    for text in overrides:
        if text.startswith("hydra.searchpath="):
            for folder in re.findall(r"file://([^,\]'\"]+)", text):
                if not (place := Path(folder).expanduser().resolve()).is_dir():
                    raise ConfigError(f"{text}: {place}: no such folder")
                admit(place)
    GlobalHydra.instance().clear()
    with no_variables(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield


class _Installed(SearchPathPlugin):
    """YAML of installed packages, after ours."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for found in entry_points(group="asft.plugins"):
            search_path.append(found.name, f"pkg://{found.value}")


Plugins.instance().register(_Installed)


def overrides_without_secrets(overrides: Sequence[str]) -> None:
    """Refuses secrets before they are parsed: the parser's messages quote parts of a text, which no mask fits."""
    without_secrets({text.partition("=")[0].lstrip("+~"): text for text in overrides})


def _parse(overrides: Sequence[str]) -> list[Override]:
    overrides_without_secrets(overrides)
    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        try:
            try:
                found = parser.parse_override(text)
            except HydraException:
                found = parser.parse_override(_quoted(text))  # a path with signs of Hydra's grammar: ~/a, /b/lr=1
        except HydraException as error:
            reason = one_line(error).partition(" expecting ")[0]
            raise ConfigError(
                f"{text}: cannot be read as KEY=VALUE ({reason}); a sweep's values are A,B, a list is [A,B], and what "
                "holds spaces or unusual signs needs quotes within quotes"
            ) from error
        parsed.append(found)
        key = found.key_or_group
        allowed = [] if "." in key else GlobalHydra.instance().config_loader().get_group_options(key)  # slow
        if allowed and not (found.is_sweep_override() or found.is_delete() or isinstance(found.value(), str)):
            raise ConfigError(
                f"{text}: {key} is one of {', '.join(allowed)}; several are a sweep: `asft run -m {key}=A,B`"
            )
    return parsed


def _quoted(text: str) -> str:
    """An override with quotes around each of its values; as it is where it has quotes or brackets, or one is empty."""
    key, _, value = text.partition("=")
    parts = value.split(",")
    plain = all(parts) and not set(value) & set("\"'[]{}\\")
    return f"{key}=" + ",".join(f"'{part}'" for part in parts) if plain else text


def check_ours(config: DictConfig) -> None:
    """Refuses what Hydra and Python's logging would import and call for a YAML file."""
    if config.get("callbacks"):
        raise ConfigError("hydra.callbacks: none are called; a tracker or a method is a plug-in of asft")
    for part in ("hydra_logging", "job_logging"):
        for path, value in leaves(OmegaConf.to_container(config[part], resolve=True) or {}):
            key = path.rpartition(".")[2]
            named = key in {"()", "class"} and not str(value).startswith(("logging.", "asft."))
            if named or (str(value).startswith("ext://") and value not in {"ext://sys.stdout", "ext://sys.stderr"}):
                raise ConfigError(f"hydra.{part}: {key}={value}: only classes of logging and of asft are used")


def _compose(overrides: list[str], hydra_too: bool) -> DictConfig:
    try:
        return compose(CONFIG_NAME, overrides=overrides, return_hydra_config=hydra_too)
    except YAMLError as error:
        raise ConfigError(f"a YAML file cannot be read: {one_line(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"a YAML file of hydra.searchpath is not UTF-8 text ({error}); save it anew") from error
    except (HydraException, OmegaConfBaseException) as error:
        if match := re.search(r"Could not override '([^']+)'", str(error)):
            raise ConfigError(_unknown_key(match[1], overrides)) from error
        raise ConfigError(one_line(error)) from error


def _unknown_key(key: str, overrides: list[str]) -> str:
    """Names the keys that stand where a misspelt one was given, and where its name is a key."""
    tree = _compose([text for text in overrides if text.partition("=")[0] != key], False)
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    allowed = [str(child) for child in node] if isinstance(node, DictConfig) else []
    if not parent:  # groups of which nothing is chosen are not in the tree
        allowed += sorted({*GlobalHydra.instance().config_loader().list_groups("")} - {"hydra", *allowed})
    parts = [str(part) for part, inside in tree.items() if isinstance(inside, DictConfig) and name in inside]
    places = [f"{part}.{name}" for part in parts]
    return f"{key}: unknown key{instead(name, allowed, f'{parent}.' if parent else '', places)}"


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
        r"Could not find '(.+?)/([^'/]*)'\s+Available options in '[^']+':\s*(.*?)(?:\s+Config search path|$)",
        text,
        re.S,
    ):
        return f"{match[1]}={match[2]}: unknown{instead(match[2], match[3].split())}"
    if leads_nowhere := re.match(r"Interpolation key '(.+?)' not found\s+full_key: (\S+)", text):
        group, _, name = leads_nowhere[1].rpartition(".")
        where = f"; write `{name}: …` into the YAML of {group}" if group else ""
        return f"{leads_nowhere[2]}: is taken from {leads_nowhere[1]}, which is not set{where}"
    if whole := re.match(r"Error merging override (\S+)", text):
        return f"{whole[1]}: has keys below it, which no value can take the place of; set one of them"
    if twice := re.match(r"Multiple values for (\S+)\. To override", text):
        return f"{twice[1]}: has a choice already; leave out the + before it"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: must be given"
    return " ".join(text.split())
