"""The model class that a checkpoint's ``config.json`` names: its linear modules, and which stored tensors each of its
weights is made of, by the rules with which transformers loads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from asft.anchor.files import read_json


@dataclass(slots=True)
class Source:
    """The stored tensors that one weight is made of.

    Attributes:
        keys: their keys; one where there is no rule.
        rule: transformers' converter that makes weights of them (takes a fused one apart, puts experts together).
        patterns: the pattern of ``rule`` that each key matched.
        name: of the weight.
        first: of the first weight that ``rule`` makes, by which transformers calls it.
        shape: of the weight; None without a rule, where it is the stored tensor's.
    """

    keys: list[str]
    rule: Any = None
    patterns: list[str] = field(default_factory=list)
    name: str = ""
    first: str = ""
    shape: tuple[int, ...] | None = None


def linear_modules(model: nn.Module) -> dict[str, bool]:
    """Names of a model's linear modules, in its order, each with whether its weight is stored i×o (``Conv1D``)."""
    linears = nn.Linear | Conv1D
    return {name: isinstance(part, Conv1D) for name, part in model.named_modules() if isinstance(part, linears)}


class Architecture:
    """The class that transformers would build for a configuration, on the meta device, which takes no memory."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._weights = model.state_dict()
        self.linears = linear_modules(model)

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """What ``folder/config.json`` names; None if there is none, or only remote code, never run, knows the class."""
        file = folder / "config.json"
        if not file.is_file():
            return None
        from transformers import (
            CONFIG_MAPPING,
            MODEL_FOR_CAUSAL_LM_MAPPING,
            MODEL_MAPPING,
            AutoConfig,
            AutoModel,
            AutoModelForCausalLM,
        )

        if read_json(file).get("model_type") not in CONFIG_MAPPING:
            return None
        families = ((MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM), (MODEL_MAPPING, AutoModel))
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            family = next((family for known, family in families if type(config) in known), None)
            if family is None:
                return None
            with torch.device("meta"):
                return cls(family.from_config(config, trust_remote_code=False))
        except Exception as error:  # whatever a class makes of a configuration that does not fit it
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"{str(file)!r}: transformers cannot build this model ({reason[:200]}).") from error

    def sources(self, keys: Iterable[str]) -> dict[str, Source]:
        """What each weight of the model is made of, given the keys that a checkpoint stores; by the weight's name."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        rules = get_model_conversion_mapping(self._model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        of_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        prefix, found = self._model.base_model_prefix, dict[str, Source]()
        for key in sorted(keys, key=dot_natural_key):  # some rules depend on the order
            name, pattern = rename_source_key(key, renamings, converters, prefix, self._weights)
            if name not in self._weights and key in self._weights:  # spelled as in the model although a rule matches
                name, pattern = rename_source_key(key, [], [], prefix, self._weights)
            if pattern is None and name in self._weights:
                found.setdefault(name, Source([key]))
            elif pattern is not None and name in self._weights:
                rule = of_pattern[pattern]
                made_names = (name.replace(rule.target_patterns[0], target) for target in rule.target_patterns)
                for made in [made for made in made_names if made in self._weights]:
                    shape = tuple(self._weights[made].shape)
                    source = found.setdefault(made, Source([], rule, [], made, name, shape))
                    source.keys.append(key)
                    source.patterns.append(pattern)
        self._add_tied(found)
        return found

    def _add_tied(self, found: dict[str, Source]) -> None:
        """Weights that are not stored because they are another one, such as an output head's."""
        same: dict[str, list[str]] = {}
        for name, root in self._model.all_tied_weights_keys.items():
            same.setdefault(root, [root]).append(name)
        for names in same.values():
            stored = next((name for name in names if name in found), None)
            if stored is not None:
                found.update({name: found[stored] for name in names if name not in found})

    def make(self, source: Source, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """A weight, made by transformers' own rule of the stored tensors, which ``read`` returns by key."""
        rule = deepcopy(source.rule)
        for key, pattern in zip(source.keys, source.patterns, strict=True):
            rule.add_tensor(source.first, key, pattern, read(key))
        made = rule.convert(source.first, model=self._model, config=self._model.config)[source.name]
        return made[0] if isinstance(made, list) else made
