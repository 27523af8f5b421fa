"""Weight differences V = W_aligned − W_base, streamed out of two checkpoints one module at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from asft.anchor.checkpoint import Checkpoint
from asft.anchor.names import is_target


@dataclass(frozen=True, slots=True)
class PairedModule:
    """One linear module present in both checkpoints.

    Attributes:
        name: as the model class spells it, e.g. ``model.layers.0.self_attn.q_proj``.
        out_features: o, rows of the o×i matrix that multiplies a column vector.
        in_features: i.
        base_key: tensor key in the base checkpoint.
        aligned_key: tensor key in the aligned checkpoint.
        transposed: stored as i×o (``transformers.pytorch_utils.Conv1D``, as in GPT-2).
    """

    name: str
    out_features: int
    in_features: int
    base_key: str
    aligned_key: str
    transposed: bool


class CheckpointPair:
    """The target modules of a base and an aligned checkpoint.

    Modules are matched by name; only 2-D weights of linear modules are looked at, so biases, embeddings and
    unequal vocabularies do not matter.

    Args:
        base: checkpoint before alignment, a directory of safetensors or one file.
        aligned: checkpoint after alignment, of equal shapes in the target modules.
        targets: module names or trailing path components of them, e.g. ``["q_proj", "v_proj"]``.

    Raises:
        ValueError: targets that match nothing, unequal shapes, a target missing on one side, equal weights.
    """

    def __init__(self, base: str | Path, aligned: str | Path, targets: Sequence[str]) -> None:
        if isinstance(targets, str) or not targets:
            raise ValueError(f"targets={targets!r} must be a list with a module name in it, e.g. ['q_proj', 'v_proj'].")
        self.base, self.aligned = Checkpoint(base, "base"), Checkpoint(aligned, "aligned")
        self.modules = {name: self._pair(name, transposed) for name, transposed in self._select(targets)}
        self._check_difference()

    def _select(self, targets: Sequence[str]) -> list[tuple[str, bool]]:
        linears = linear_modules(self.aligned) or linear_modules(self.base) or _linears_by_key(self.aligned)
        unmatched = [target for target in targets if not any(is_target(name, [target]) for name in linears)]
        if unmatched:
            available = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
            raise ValueError(
                f"targets={list(targets)}: {unmatched[0]!r} matches no linear module of {self.aligned}; "
                f"available: {available}."
            )
        return [(name, transposed) for name, transposed in linears.items() if is_target(name, targets)]

    def _pair(self, name: str, transposed: bool) -> PairedModule:
        base_key, aligned_key = (_weight_key(side, name) for side in (self.base, self.aligned))
        base_shape, aligned_shape = self.base.shapes[base_key], self.aligned.shapes[aligned_key]
        if base_shape != aligned_shape or len(base_shape) != 2:
            raise ValueError(
                f"Module {name!r} has shape {base_shape} in {self.base} but {aligned_shape} in "
                f"{self.aligned}: give two checkpoints of one architecture and size."
            )
        o, i = reversed(base_shape) if transposed else base_shape
        return PairedModule(name, o, i, base_key, aligned_key, transposed)

    def _check_difference(self) -> None:
        same = [name for name, module in self.modules.items() if self._is_same(module)]
        if len(same) == len(self.modules):
            raise ValueError(
                f"{self.base} and {self.aligned} are the same in all {len(same)} target modules (V = 0), so "
                "there is no alignment direction: give two different models."
            )
        if same:
            raise ValueError(
                f"Module {same[0]!r} is the same in {self.base} and {self.aligned} (V = 0; {len(same)} of "
                f"{len(self.modules)} modules), so it has no alignment direction: leave it out of targets."
            )

    def _is_same(self, module: PairedModule) -> bool:
        """Stops at the first block that differs, so it costs next to nothing on a real pair."""
        return all(torch.equal(before.double(), after.double()) for _, before, after in self._blocks(module))

    def _blocks(self, module: PairedModule) -> Iterator[tuple[slice, Tensor, Tensor]]:
        base = self.base.row_blocks(module.base_key)
        aligned = self.aligned.row_blocks(module.aligned_key)
        for (rows, before), (_, after) in zip(base, aligned, strict=True):
            yield rows, before, after

    def difference(self, name: str, device: str | torch.device = "cpu") -> Tensor:
        """V of one module, o×i, float32 (float64 if a side is stored so).

        Raises:
            ValueError: V is not finite.
        """
        module = self.modules[name]
        v: Tensor | None = None
        for rows, before, after in self._blocks(module):
            dtype = torch.promote_types(torch.promote_types(before.dtype, after.dtype), torch.float32)
            if v is None:
                v = torch.empty(module.out_features, module.in_features, dtype=dtype, device=device)
            block = (after.to(dtype) - before.to(dtype)).to(device)
            if module.transposed:
                v[:, rows] = block.T
            else:
                v[rows] = block
        assert v is not None, "a weight has at least one row"
        if not torch.isfinite(torch.linalg.matrix_norm(v)):
            raise ValueError(f"Module {name!r}: the difference of {self.aligned} and {self.base} is not finite.")
        return v

    def digest(self) -> str:
        """SHA-256 over name, layout, type, shape and bytes of every target weight on both sides."""
        total = hashlib.sha256()
        for name, module in sorted(self.modules.items()):
            for side, key in ((self.base, module.base_key), (self.aligned, module.aligned_key)):
                weight = side.tensor(key)
                traits = (name, side.role, module.transposed, str(weight.dtype), tuple(weight.shape))
                total.update(repr(traits).encode())
                total.update(weight.contiguous().view(torch.uint8).numpy().data)
        return total.hexdigest()


def _weight_key(side: Checkpoint, name: str) -> str:
    key = side.weight_key(name)
    if key is None:
        raise ValueError(f"{side} has no weight for module {name!r}: give two checkpoints of one architecture.")
    return key


def _linears_by_key(checkpoint: Checkpoint) -> dict[str, bool]:
    """Fall-back without a config: every 2-D ``.weight`` but the embeddings, taken as o×i."""
    return {
        key.removesuffix(".weight"): False
        for key, shape in checkpoint.shapes.items()
        if key.endswith(".weight") and len(shape) == 2 and "embed" not in key
    }


def linear_modules(checkpoint: Checkpoint) -> dict[str, bool]:
    """Linear modules of the class that ``config.json`` names, in model order: name → stored transposed.

    The model is built on the meta device, which takes no memory. Empty when there is no config, or one that
    only remote code could build (which is never run).
    """
    file = checkpoint.path / "config.json"
    if not file.is_file() or "auto_map" in json.loads(file.read_text()):
        return {}
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    config = AutoConfig.from_pretrained(checkpoint.path)
    family = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModel
    with torch.device("meta"):
        model = family.from_config(config)
    linears = (torch.nn.Linear, Conv1D)
    return {name: isinstance(part, Conv1D) for name, part in model.named_modules() if isinstance(part, linears)}
