"""A model pair: the base checkpoint and its aligned twin, whatever they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from asft.methods.base import Side

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Pair:
    """Two local folders of safetensors with one tokenizer, the aligned side's.

    Attributes:
        key: identifies the weights of both sides in content keys.
    """

    base: Path
    aligned: Path
    key: str
    dtype: Dtype = "float32"

    def path(self, side: Side) -> Path:
        """The folder of one side."""
        return self.base if side == "base" else self.aligned

    def load(self, side: Side, device: torch.device) -> PreTrainedModel:
        """One side's model on ``device`` in the pair's dtype, in evaluation mode."""
        return load_model(self.path(side), self.dtype, device)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The aligned side's tokenizer; a missing pad token becomes the end-of-sequence token."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.aligned)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer


def load_model(folder: Path, dtype: Dtype, device: torch.device) -> PreTrainedModel:
    """A causal language model from safetensors; pickles and remote code are refused."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), use_safetensors=True, attn_implementation="sdpa"
    )
    loaded: PreTrainedModel = model.to(device).eval()
    return loaded


def resolve_device(device: str) -> torch.device:
    """``auto`` is the first GPU where there is one.

    Raises:
        ValueError: when ``cuda`` is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: no CUDA device is visible; use device=cpu or device=auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, read from its safetensors headers alone.

    Raises:
        ValueError: when the folder holds no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: no *.safetensors there; pickled checkpoints (*.bin) are not read, convert them")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                shapes[name] = tuple(tensors.get_slice(name).get_shape())
    return shapes


def check_pair(base: Path, aligned: Path, targets: tuple[str, ...]) -> None:
    """Refuses pairs from which no alignment direction can come.

    Raises:
        ValueError: when the sides are the same folder, when a target module's weights differ in shape or are
            on one side only, or when the targets match nothing.
    """
    if base.resolve() == aligned.resolve():
        raise ValueError(f"model.base and model.aligned are the same folder, {base}: the alignment direction is zero")
    sides = [_target_shapes(folder, targets) for folder in (base, aligned)]
    if not sides[1]:
        names = sorted({name.split(".")[-2] for name, shape in tensor_shapes(aligned).items() if len(shape) == 2})
        raise ValueError(
            f"training.target_modules={list(targets)}: matches no weight of {aligned}; allowed: {', '.join(names)}"
        )
    for name in sorted(set(sides[0]) | set(sides[1])):
        shapes = [side.get(name) for side in sides]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"model.base and model.aligned differ: {name} is {shapes[0] or 'absent'} in {base} and "
                f"{shapes[1] or 'absent'} in {aligned}. Both must be checkpoints of one architecture and size."
            )


def _target_shapes(folder: Path, targets: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of the target modules' weights; a leading ``model.`` of some exports is dropped."""
    return {
        name.removeprefix("model."): shape
        for name, shape in tensor_shapes(folder).items()
        if name.endswith(".weight") and name.split(".")[-2] in targets and len(shape) == 2
    }


def checkpoint_identity(folder: Path) -> dict[str, Any]:
    """What tells a local checkpoint from another without reading its weights: names, sizes, times, headers."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json"), *folder.glob("tokenizer*.json")])
    stats = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    config = folder / "config.json"
    return {"files": stats, "config": json.loads(config.read_text()) if config.exists() else {}}
