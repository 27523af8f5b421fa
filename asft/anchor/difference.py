"""Weight differences V = W_aligned − W_base, streamed out of two checkpoints one module at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from asft.anchor.checkpoint import Checkpoint
from asft.anchor.names import is_target, spellings, unmatched


@dataclass(frozen=True, slots=True)
class PairedModule:
    """One linear module present in both checkpoints: an o×i matrix that multiplies a column vector.

    Its name is the model class's; ``transposed`` where it is stored as i×o (Conv1D, as in GPT-2), ``assumed`` where no
    class says so and o×i is a guess.
    """

    name: str
    out_features: int
    in_features: int
    transposed: bool
    assumed: bool


class CheckpointPair:
    """The target modules of a base and an aligned checkpoint.

    Modules are matched by name; only 2-D weights of linear modules are looked at, so biases, embeddings and
    unequal vocabularies do not matter.

    Args:
        base, aligned: checkpoints before and after alignment, a directory of safetensors or one file each.
        targets: module names or trailing path components of them, e.g. ``["q_proj", "v_proj"]``. A whole name may
            also be a key of the checkpoint that names no module (one expert of fused ones).
        allow_equal: accept modules that are the same on both sides, as long as one differs.

    Attributes:
        modules: by name.
        equal: names of modules that are the same on both sides (V = 0) and so have no alignment direction.

    Raises:
        ValueError: targets that match nothing, unequal shapes, a target missing on one side, equal weights.
    """

    def __init__(
        self, base: str | Path, aligned: str | Path, targets: Sequence[str], *, allow_equal: bool = False
    ) -> None:
        if isinstance(targets, str) or not targets:
            raise ValueError(
                f"targets={targets!r} must be a list with a module name in it, e.g. ['q_proj', 'v_proj']; of "
                "'all-linear' or a pattern, PEFT's model has it as targeted_module_names."
            )
        self.base, self.aligned = Checkpoint(base, "base"), Checkpoint(aligned, "aligned")
        shared = self.aligned.architecture or self.base.architecture
        for side in (self.base, self.aligned):
            side.architecture = side.architecture or shared
        linears = shared.linears if shared else self.aligned.linears_by_key()
        known = shared.linears if shared else {}
        self.modules = {name: self._pair(name, known.get(name)) for name in self._select(targets, linears)}
        self.equal = frozenset(  # stops at a module's first block that differs: next to nothing on a real pair
            name
            for name, module in self.modules.items()
            if all(torch.equal(before.double(), after.double()) for _, before, after in self._blocks(module))
        )
        if len(self.equal) == len(self.modules):
            raise ValueError(
                f"{self.base} and {self.aligned} are the same in all {len(self.equal)} target modules (V = 0), so "
                "there is no alignment direction: give two different models."
            )
        if self.equal and not allow_equal:
            first = next(name for name in self.modules if name in self.equal)
            raise ValueError(
                f"Module {first!r} is the same in {self.base} and {self.aligned} (V = 0; {len(self.equal)} of "
                f"{len(self.modules)} modules), so it has no alignment direction: leave it out of targets."
            )

    def _select(self, targets: Sequence[str], linears: Iterable[str]) -> list[str]:
        found = [name for name in linears if is_target(name, targets)]
        nowhere = []
        for target in unmatched(targets, found):
            stored = [name for name in spellings(target) if f"{name}.weight" in self.aligned.stored]
            found += stored[:1]
            nowhere += [] if stored else [target]
        if nowhere:
            available = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
            raise ValueError(
                f"target {nowhere[0]!r} ({len(nowhere)} of {len(targets)}) matches no linear module of "
                f"{self.aligned}; available: {available}."
            )
        return found

    def _pair(self, name: str, transposed: bool | None) -> PairedModule:
        base_shape, aligned_shape = (side.shape(f"{name}.weight") for side in (self.base, self.aligned))
        if base_shape != aligned_shape or len(base_shape) != 2:
            raise ValueError(
                f"Module {name!r} has shape {base_shape} in {self.base} but {aligned_shape} in "
                f"{self.aligned}: give two checkpoints of one architecture and size."
            )
        o, i = reversed(base_shape) if transposed else base_shape
        return PairedModule(name, o, i, bool(transposed), transposed is None)

    def _blocks(self, module: PairedModule) -> Iterator[tuple[slice, Tensor, Tensor]]:
        base, aligned = (side.row_blocks(f"{module.name}.weight") for side in (self.base, self.aligned))
        for (rows, before), (_, after) in zip(base, aligned, strict=True):
            yield rows, before, after

    def difference(self, name: str, device: str | torch.device = "cpu") -> Tensor:
        """V of one module, o×i, float32 (float64 if a side is stored so); ValueError if it is not finite."""
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
            for side in (self.base, self.aligned):
                weight = side.tensor(f"{name}.weight")
                traits = (name, side.role, module.transposed, str(weight.dtype), tuple(weight.shape))
                total.update(repr(traits).encode())
                total.update(weight.contiguous().view(torch.uint8).numpy().data)
        return total.hexdigest()
