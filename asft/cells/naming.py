"""What a cell's method is called among others: its name, its strength, and the settings that are not its defaults."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf

from asft.cells.compose import config_dir

_LONGEST = 30  # characters of a text among the settings


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
    given = OmegaConf.create({"model": dict(model)})
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
            text = f"{value:g}" if isinstance(value, float) else textwrap.shorten(str(value), _LONGEST, placeholder="…")
            words.append(f"{symbols.get(key, key)}={text}")
    return " ".join(filter(None, (*words, after)))


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
