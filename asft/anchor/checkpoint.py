"""One safetensors checkpoint, read tensor by tensor without loading a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from asft.anchor.names import BACKBONE_PREFIXES, stem

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Types whose numbers are the weights; float8 and integers need scales that other tensors hold.
PLAIN_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BLOCK_BYTES = 8 << 20


class Checkpoint:
    """The tensors of one checkpoint, by key.

    Args:
        path: a directory with ``model.safetensors`` or ``model.safetensors.index.json``, or one file.
        role: how error messages call it, ``"base"`` or ``"aligned"``.

    Raises:
        ValueError: nothing there, only pickled weights, or an index that names a missing shard.
    """

    def __init__(self, path: str | Path, role: str) -> None:
        self.path, self.role = Path(path), role
        self._files = self._locate()

    def __str__(self) -> str:
        return f"{self.role}={str(self.path)!r}"

    def _locate(self) -> dict[str, Path]:
        if not self.path.exists():
            raise ValueError(
                f"{self} does not exist: give a local checkpoint directory (`hf download NAME` fetches one)."
            )
        if self.path.is_file():
            if self.path.suffix != ".safetensors":
                raise ValueError(f"{self} is not a .safetensors file; no other format is read.")
            return self._keys_of(self.path)
        if (self.path / INDEX_NAME).is_file():
            return self._shards()
        if (self.path / SINGLE_NAME).is_file():
            return self._keys_of(self.path / SINGLE_NAME)
        pickled = sorted(file.name for pattern in PICKLED for file in self.path.glob(pattern))
        if pickled:
            raise ValueError(
                f"{self} holds pickled weights only ({pickled[0]!r}), which are never loaded because "
                "unpickling runs code: convert it with save_pretrained, which writes safetensors."
            )
        raise ValueError(
            f"{self} has neither {SINGLE_NAME} nor {INDEX_NAME}: give a directory written by save_pretrained."
        )

    def _shards(self) -> dict[str, Path]:
        weight_map: dict[str, str] = json.loads((self.path / INDEX_NAME).read_text())["weight_map"]
        missing = sorted({file for file in weight_map.values() if not (self.path / file).is_file()})
        if missing:
            raise ValueError(
                f"{self}: {INDEX_NAME} names {missing[0]!r}, which is not there ({len(missing)} missing): "
                "complete the download."
            )
        return {key: self.path / file for key, file in weight_map.items()}

    @staticmethod
    def _keys_of(file: Path) -> dict[str, Path]:
        with safe_open(file, "pt") as handle:
            return dict.fromkeys(handle.keys(), file)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, from the file headers alone."""
        shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(set(self._files.values())):
            with safe_open(file, "pt") as handle:
                for key in handle.keys():  # noqa: SIM118 (not a dict)
                    shapes[key] = tuple(handle.get_slice(key).get_shape())
        return shapes

    def weight_key(self, name: str) -> str | None:
        """The key of module ``name``'s weight, with or without the backbone prefix; None if absent."""
        prefixed = (f"{prefix}{stem(name)}.weight" for prefix in ("", *BACKBONE_PREFIXES))
        return next((key for key in (f"{name}.weight", *prefixed) if key in self._files), None)

    def tensor(self, key: str) -> Tensor:
        """The whole tensor as stored."""
        with safe_open(self._files[key], "pt") as handle:
            tensor: Tensor = handle.get_tensor(key)
        return tensor

    def row_blocks(self, key: str) -> Iterator[tuple[slice, Tensor]]:
        """The rows of a 2-D tensor, a few MiB at a time; the file is unmapped when the iteration ends.

        Raises:
            ValueError: the numbers stored are not the weights themselves (integers, float8).
        """
        rows, columns = self.shapes[key]
        step = max(1, BLOCK_BYTES // (8 * columns))
        with safe_open(self._files[key], "pt") as handle:
            view = handle.get_slice(key)
            for start in range(0, rows, step):
                block = slice(start, min(start + step, rows))
                values: Tensor = view[block]
                if values.dtype not in PLAIN_TYPES:
                    raise ValueError(f"{self}: {key!r} is stored as {values.dtype}: give an unquantised checkpoint.")
                yield block, values
