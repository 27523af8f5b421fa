"""One safetensors checkpoint, read weight by weight without loading a model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from asft.anchor.architecture import Architecture, Source
from asft.anchor.files import open_weights, read_json
from asft.anchor.names import spellings

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
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
        path: a directory with ``model.safetensors`` or ``model.safetensors.index.json``, or one file.
        role: how error messages call it, ``"base"`` or ``"aligned"``.

    Attributes:
        architecture: the class; None where nothing names one, and weights are then found by their keys.

    Raises:
        ValueError: nothing there, only pickled weights, a missing shard, or a file that is not whole.
    """

    def __init__(self, path: str | Path, role: str) -> None:
        self.path, self.role = Path(path), role
        self.stored: dict[str, _Stored] = {}
        for file in self._files():
            with open_weights(file) as handle:
                for key in handle.keys():  # noqa: SIM118 (not a dict)
                    view = handle.get_slice(key)
                    self.stored[key] = _Stored(file, view.get_dtype(), tuple(view.get_shape()))
        self.architecture = Architecture.of(self.path)

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
        if (self.path / SINGLE_NAME).is_file():
            return [self.path / SINGLE_NAME]
        if (self.path / INDEX_NAME).is_file():
            return self._shards()
        pickled = sorted(file.name for pattern in PICKLED for file in self.path.glob(pattern))
        if pickled:
            raise ValueError(
                f"{self} holds pickled weights only ({pickled[0]!r}), which are never loaded because "
                "unpickling runs code: convert it with save_pretrained, which writes safetensors."
            )
        raise ValueError(
            f"{self} has neither {SINGLE_NAME} nor {INDEX_NAME}: give a directory written by save_pretrained."
        )

    def _shards(self) -> list[Path]:
        files = sorted(set(read_json(self.path / INDEX_NAME).get("weight_map", {}).values()))
        missing = [file for file in files if not (self.path / file).is_file()]
        if not files:
            raise ValueError(f"{self}: {INDEX_NAME} names no file (no weight_map): download or save it again.")
        if missing:
            raise ValueError(
                f"{self}: {INDEX_NAME} names {missing[0]!r}, which is not there ({len(missing)} missing): "
                "complete the download."
            )
        return [self.path / file for file in files]

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
