"""What a cell's method is called among others: its name, its strength, and the settings that are not its defaults."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Container, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal

from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asft.cells.build import build_plugin
from asft.cells.cell import PLUGINS
from asft.cells.compose import CONFIG_NAME, config_dir
from asft.store.entries import content_key
from asft.text import without_home

_LONGEST = 30  # characters of a text among the settings
# Practical, or told otherwise: the recipe's settings where they come to bear.
_TOLD_ELSEWHERE = ("model.recipe", "model.seed", "model.device_map", "protocol.seed", "evaluation.batch_size")


def fine_tune(config: Mapping[str, Any]) -> str:
    """What is attacked how, and what its fine-tune does otherwise than the YAML files say: ``p=0.1 full epochs=2``.

    Args:
        config: a cell's whole configuration as a manifest holds it.
    """
    chosen = (config["attack"]["source"], config["training"]["name"])
    words = [f"p={config['attack']['p']:g}", *(name for name in chosen if name not in {"harmful", "lora"})]
    return " ".join([*words, *unusual(config, "attack"), *unusual(config, "training")])


def unusual(
    config: Mapping[str, Any], group: Literal["attack", "training"], left_out: Container[str] = ()
) -> list[str]:
    """The settings of an attack or a training that are not as the YAML files say: ``epochs=2``."""
    parts = {
        "model": _with_written_recipe(config["model"]),
        "dataset": config["dataset"],
        "protocol": config["protocol"],
    }
    name = config[group]["source" if group == "attack" else "name"]
    usual = _as_written(group, name, json.dumps(parts, sort_keys=True))
    told = {key: value for key, value in config[group].items() if key not in {"name", "code", "source", "p"}}
    return [f"{key}={_text(value)}" for key, value in told.items() if value != usual.get(key) and key not in left_out]


def around_it(config: Mapping[str, Any], *, graded: bool) -> str:
    """What of rows, pair, prompts, judge and answers is not as its YAML has it: ``data=hub judge.model=x``.

    What is long, or no single value, is told together by a digest: ``settings=1a2b3c``. Seeds are left out.

    Args:
        config: as for :func:`fine_tune`.
        graded: whether FA comes from the grader.
    """
    written = {
        "model": _with_written_recipe(config["model"]),
        "dataset": config["dataset"],
        "protocol": config["protocol"],
    }
    given = json.dumps({**written, "device": "auto", "outputs": "outputs"}, sort_keys=True)
    groups = ["data", "dataset", "model", "protocol", "jailbreak", "backend", "judge", *["grader"] * graded]
    odd = {"data": config["data"]["name"]} if config["data"]["name"] != "world" else {}
    for group in (*groups, "evaluation"):
        usual = _usual_part(group, config[group].get("name", ""), given)
        odd |= {f"{group}.{key}": value for key, value in config[group].items() if value != usual.get(key)}
        if group != "grader":  # the other names stand in a group's name already
            odd.pop(f"{group}.name", None)
    for name, metric in config["metrics"].items():
        odd |= {f"metrics.{name}.{key}": value for key, value in metric.items() if key not in {"name", "code"}}
    for key in _TOLD_ELSEWHERE:
        odd.pop(key, None)
    odd = without_home(odd)
    plain = {key: str(value) for key, value in odd.items() if not isinstance(value, Mapping | list)}
    short = {key: value for key, value in plain.items() if len(value) <= _LONGEST and not key.endswith(".code")}
    words = [f"{key}={value}" for key, value in short.items()]
    long = {key: value for key, value in odd.items() if key not in short}
    return " ".join([*words, f"settings={content_key(long)[:6]}"] if long else words)


def method_name(method: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """A method in words: ``asft λ=3``, ``safe_lora K=2 ∘ asft λ=3``.

    Args:
        method: its settings as a manifest holds them.
        model: the model's, whose recipe holds some of the defaults.
    """
    lam = method.get("lam")
    return " ".join(filter(None, (method["name"], "" if lam is None else f"λ={lam:g}", variant(method, model))))


def variant(method: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """The settings but λ that are not the method's defaults, and the method that it comes after unless that is usual.

    Of a method that no YAML of the package names, all settings.
    """
    usual, symbols = _usual(method["name"])
    given = OmegaConf.create({"model": _with_written_recipe(model)})
    words, after = [], ""
    for key, value in method.items():
        default = usual.get(key, dataclasses.MISSING)
        if isinstance(default, str) and default.startswith("${"):
            default = OmegaConf.select(given, default[2:-1])
        if key in {"name", "code", "lam"} or value == default:
            continue
        if isinstance(value, Mapping) and "name" in value:
            name = method_name(value, model)
            after = "" if name == default else f"∘ {name}"
        else:
            words.append(f"{symbols.get(key, key)}={_text(value)}")
    return " ".join(filter(None, (*words, after)))


def _with_written_recipe(model: Mapping[str, Any]) -> dict[str, Any]:
    """The model with the recipe of its YAML: a setting that the recipe was given on the command line is not usual."""
    written = _as_written("model", str(model.get("name", "")), "{}").get("recipe") or {}
    return {**model, "recipe": {**(model.get("recipe") or {}), **written}}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else textwrap.shorten(str(value), _LONGEST, placeholder="…")


@cache
def _as_written(group: str, name: str, around: str) -> dict[str, Any]:
    """A group's choice as its YAML has it beside other parts of a configuration, which are given as JSON."""
    chosen: list[Any] = []
    while name.isidentifier() and (path := config_dir() / group / f"{name}.yaml").is_file():
        chosen.insert(0, OmegaConf.load(path))
        name = next((part for part in chosen[0].pop("defaults", []) if part != "_self_"), "")
    with suppress(OmegaConfBaseException):  # a stored configuration may lack what the file refers to
        whole = OmegaConf.create({**json.loads(around), group: OmegaConf.merge(*chosen) if chosen else {}})
        written: Any = OmegaConf.to_container(whole[group], resolve=True)
        return dict(written)
    return {}


@cache
def _usual_part(group: str, name: str, around: str) -> dict[str, Any]:
    """The settings of a group's choice as its YAML has them; {} where no YAML of the package has it."""
    if group == "evaluation":
        written = OmegaConf.select(OmegaConf.load(config_dir() / f"{CONFIG_NAME}.yaml"), group)
        usual: Any = OmegaConf.to_container(OmegaConf.create({**json.loads(around), group: written}), resolve=True)
        return dict(usual[group])
    found = _as_written(group, name, around)
    with suppress(ValueError):  # what must be given is in no file
        return build_plugin(group, found, PLUGINS[group]).settings() if group in PLUGINS else found
    return {}


@cache
def _usual(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A method's defaults by field, those from a recipe as interpolations, and its strengths' symbols by field."""
    path = config_dir() / "method" / f"{name}.yaml"
    if not path.is_file():
        return {}, {}
    written: Any = OmegaConf.to_container(OmegaConf.load(path))
    usual: dict[str, Any] = {}
    cls = get_class(written.pop("_target_"))
    for field in dataclasses.fields(cls):
        usual[field.name] = field.default
    for part in written.pop("defaults", []):
        if isinstance(part, dict):
            usual |= {key.rpartition("@")[2]: choice for key, choice in part.items()}
        elif part != "_self_":
            usual |= _usual(part)[0]
    return usual | written, {strength.key.removeprefix("method."): strength.symbol for strength in cls.strengths}
