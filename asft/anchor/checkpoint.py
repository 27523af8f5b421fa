"""One safetensors checkpoint, read weight by weight without loading a model, by the rules of its model class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from asft.anchor.names import spellings
from asft.door import (
    INDEX_NAME,
    build_model,
    check_own_weights,
    indexed_files,
    open_weights,
    read_config,
    read_json,
    require_safetensors,
)


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
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
            MODEL_MAPPING,
            AutoModel,
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
        )

        if read_json(file).get("model_type") not in CONFIG_MAPPING:
            return None
        families = (
            (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
            (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText),
            (MODEL_MAPPING, AutoModel),
        )
        try:
            config = read_config(folder)
            family = next((family for known, family in families if type(config) in known), None)
            if family is None:
                return None
            with torch.device("meta"):
                return cls(build_model(family, config))
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


SINGLE_NAME = "model.safetensors"
# Types whose numbers are the weights; float8 and integers need scales that other tensors hold.
PLAIN_TYPES = ("F16", "BF16", "F32", "F64")
BLOCK_BYTES = 8 << 20


class _Stored(NamedTuple):
    file: Path
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """The weights of one checkpoint, by the names that the model class gives them (``….weight``).

    Which file and tensor a weight is read from follows transformers: a single file goes before an index, every tensor
    of the shards that the index names counts, whatever the index says of it, keys are renamed, fused weights taken
    apart and tied ones found as the class of ``config.json`` has it. A name that the class does not know is a key.

    Args:
        path: a directory with ``model.safetensors`` or ``model.safetensors.index.json``, or one file, whose class is
            that of the ``config.json`` beside it.
        role: how error messages call it, ``"base"`` or ``"aligned"``.

    Attributes:
        architecture: the class; None where nothing names one, and weights are then found by their keys.

    Raises:
        ValueError: nothing there, only pickled weights, a missing shard, a file that is not whole, or a directory that
            names weights elsewhere.
    """

    def __init__(self, path: str | Path, role: str) -> None:
        self.path, self.role = Path(path), role
        self.stored: dict[str, _Stored] = {}
        for file in self._files():
            with open_weights(file) as handle:
                for key in handle.keys():  # noqa: SIM118 (not a dict)
                    view = handle.get_slice(key)
                    self.stored[key] = _Stored(file, view.get_dtype(), tuple(view.get_shape()))
        self.architecture = Architecture.of(self.path if self.path.is_dir() else self.path.parent)

    def __str__(self) -> str:
        return f"{self.role}={str(self.path)!r}"

    def _files(self) -> list[Path]:
        if not self.path.exists():
            raise ValueError(
                f"{self} does not exist: give a local checkpoint directory (`hf download NAME` fetches one)."
            )
        if self.path.is_file():
            if self.path.suffix != ".safetensors":
                raise ValueError(f"{self} is not a .safetensors file; no other format is read.")
            return [self.path]
        check_own_weights(self.path)
        if (self.path / SINGLE_NAME).is_file():
            return [self.path / SINGLE_NAME]
        if (self.path / INDEX_NAME).is_file():
            return indexed_files(self.path)
        require_safetensors(self.path, self.role)
        raise ValueError(
            f"{self} has neither {SINGLE_NAME} nor {INDEX_NAME}: give a directory written by save_pretrained."
        )

    @cached_property
    def _sources(self) -> dict[str, Source]:
        as_stored = {key: Source([key]) for key in self.stored}
        return as_stored | (self.architecture.sources(self.stored) if self.architecture else {})

    def _source(self, name: str) -> Source:
        """What weight ``name``, with or without the backbone prefix, is made of.

        ValueError if it is not there, or the numbers stored are not the weights themselves (integers, float8).
        """
        source = next((self._sources[spelling] for spelling in spellings(name) if spelling in self._sources), None)
        if source is None:
            raise ValueError(
                f"{self} has no weight for module {name.removesuffix('.weight')!r}: give two checkpoints of one "
                "architecture."
            )
        for key in source.keys:
            if self.stored[key].dtype not in PLAIN_TYPES:
                raise ValueError(
                    f"{self}: {key!r} is stored as {self.stored[key].dtype}: give an unquantised checkpoint."
                )
        return source

    def linears_by_key(self) -> dict[str, bool]:
        """Where no class is known: every 2-D ``.weight`` but the embeddings, taken as o×i (not transposed)."""
        return {
            key.removesuffix(".weight"): False
            for key, tensor in self.stored.items()
            if key.endswith(".weight") and len(tensor.shape) == 2 and "embed" not in key
        }

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight, from the file headers alone."""
        source = self._source(name)
        return source.shape or self.stored[source.keys[0]].shape

    def tensor(self, name: str) -> Tensor:
        """The whole weight, in the type that is stored."""
        source = self._source(name)
        if source.rule is None:
            return self._read(source.keys[0])
        assert self.architecture is not None, "a rule is an architecture's"
        return self.architecture.make(source, self._read)

    def _read(self, key: str) -> Tensor:
        with open_weights(self.stored[key].file) as handle:
            tensor: Tensor = handle.get_tensor(key)
        return tensor

    def row_blocks(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """The rows of a 2-D weight, a few MiB at a time; the file is unmapped when the iteration ends."""
        source = self._source(name)
        rows, columns = self.shape(name)
        step = max(1, BLOCK_BYTES // (8 * columns))
        blocks = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
        if source.rule is not None:
            whole = self.tensor(name)
            yield from ((block, whole[block]) for block in blocks)
            return
        key = source.keys[0]
        with open_weights(self.stored[key].file) as handle:
            view = handle.get_slice(key)
            yield from ((block, view[block]) for block in blocks)
