"""What is audited: a fine-tune as changes of the aligned model's modules, and variants of it that train nothing.

One model is in memory. A variant is written into it in place, from a pristine copy of what the fine-tune changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor, nn

from asft.anchor.projection import Update, project
from asft.anchor.saved_adapter import CONFIG_NAME, FACTOR_KEY, PICKLED_NAME, WEIGHTS_NAME, read_adapter
from asft.config import Dtype
from asft.door import read_config, read_json, read_tokenizer, require_safetensors
from asft.methods.adapters import alpha_of
from asft.models.checkpoints import checkpoint_identity, fetch_checkpoint, holds_adapter, same_weights
from asft.models.pair import Pair, is_small, load_model, resolve_device, settle_threads
from asft.store.entries import content_key, write_json

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """The fine-tune with some modules' updates changed.

    Attributes:
        label: in words, e.g. ``WiSE-FT, a = 0.3``.
        family: of the repair, e.g. ``WiSE-FT``.
        kept: what is left of a module's update, 0 to 1; all of it where nothing is said.
        factors: a module's new A and B in place of that, all of one rank and of the adapter's own scale α/r.
        chosen: those of ``factors`` that are another update, where some only have another rank.
    """

    label: str
    family: str = ""
    kept: Mapping[str, float] = dataclasses.field(default_factory=dict)
    factors: Mapping[str, Update] = dataclasses.field(default_factory=dict)
    chosen: Sequence[str] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the modules whose update it changes."""
        return tuple(self.chosen or {**self.kept, **self.factors})

    def shrunk(self, share: float, modules: Iterable[str]) -> Variant:
        """The same with all updates smaller by ``share``."""
        kept = {name: (1 - share) * self.kept.get(name, 1.0) for name in modules}
        factors = {name: Update(a, (1 - share) * b) for name, (a, b) in self.factors.items()}
        return Variant(f"{self.label}, then WiSE-FT, a = {share:g}", self.family, kept, factors)


TUNED = Variant("fine-tune")


class Subject:
    """The aligned model with the fine-tune's changes beside it.

    Args:
        tuned: folder or hub id of a LoRA adapter (PEFT's, safetensors) or of a whole checkpoint.
        aligned: folder or hub id of the model that it was tuned from.
        base: the same before alignment, for what lies along the alignment direction; None where nobody asks.
        dtype: number format of the weights; None is the aligned checkpoint's own.
        device: ``auto``, ``cpu`` or ``cuda``.

    Attributes:
        source: ``aligned`` as it was given.
        modules: names of what the fine-tune changes.
        trained_on: the model that an adapter names as its own.
        own_template: whether the fine-tune has another chat template than the aligned model's, in which both are asked.
        factors: A and B of every module of an adapter; empty for a whole checkpoint.

    Raises:
        ValueError: nothing there, pickles, quantised weights, another model's adapter or another architecture.
    """

    def __init__(self, tuned: str, aligned: str, base: str | None, dtype: Dtype | None, device: str) -> None:
        self.source = aligned
        self.folder = fetch_checkpoint(tuned, "main", "the fine-tune")
        self.aligned = checkpoint_folder(aligned, "--aligned")
        self.base = checkpoint_folder(base, "--base") if base else None
        config = read_config(self.aligned)
        self.dtype = cast("Dtype", dtype or str(getattr(config, "dtype", None) or "float32").removeprefix("torch."))
        self.positions = positions(self.aligned)
        self.is_adapter = holds_adapter(self.folder)
        self.factors: dict[str, Update] = {}
        self.trained_on = ""
        self._device = resolve_device(device)
        settle_threads(small=is_small(self.aligned))
        read = self._read_adapter if self.is_adapter else self._read_checkpoint
        if not self.is_adapter:
            _require_model(self.folder, "the fine-tune")
        self.tokenizer: Any = Pair(self.aligned, self.aligned, "").tokenizer()
        self.own_template = _own_template(self.folder) not in (None, self.tokenizer.chat_template)
        if self.own_template:
            log.warning(f"{self.folder}: has a chat template of its own, and is asked in that of --aligned={aligned}")
        self.model = load_model(self.aligned, self.dtype, self._device)
        self._tuned: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = read()
        self._pristine = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self.modules = list(self._weights)
        self._written: Variant | None = None
        self.identity = content_key(
            {"aligned": checkpoint_identity(self.aligned), "tuned": checkpoint_identity(self.folder)}
        )

    def key(self, variant: Variant | None) -> str:
        """Names a variant's weights by content: the same key, the same answers."""
        if variant is None:
            return content_key({"aligned": checkpoint_identity(self.aligned), "dtype": self.dtype})
        return content_key(
            {
                "of": self.identity,
                "dtype": self.dtype,
                "kept": {name: share for name, share in sorted(variant.kept.items()) if share != 1},
                "factors": {name: [_digest(part) for part in pair] for name, pair in sorted(variant.factors.items())},
            }
        )

    @torch.no_grad()
    def write(self, variant: Variant | None) -> nn.Module:
        """The model with the variant's weights; None is the aligned model."""
        if variant is not self._written:
            for name, weight in self._weights.items():
                weight.copy_(self._pristine[name] if variant is None else self._value(name, variant))
            self._written = variant
        return self.model

    def norms(self, name: str) -> tuple[float, float]:
        """‖ΔW‖ of a module, and ‖ΔW‖/‖W‖."""
        pristine = self._pristine[name].float()
        change = self._delta(name, TUNED) if self.factors else self._tuned[name].to(self._device).float() - pristine
        size = change.float().norm().item()
        return size, size / max(pristine.norm().item(), 1e-30)

    def save(self, variant: Variant, folder: Path, readme: str) -> None:
        """Writes a variant of an adapter as PEFT reads it, with the aligned model's tokenizer and chat template.

        ``folder`` is complete or absent, and may be there from a run that was killed afterwards; ValueError where it
        holds something else.
        """
        partial = folder.with_name(f".{folder.name}.partial")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            partial.mkdir()
            try:
                self._write_adapter(variant, partial)
                (partial / "README.md").write_text(readme, encoding="utf-8")
                if folder.exists() and same_weights(folder, partial):
                    os.replace(partial / "README.md", folder / "README.md")  # of another wish, judge or prompts
                else:
                    require_absent(folder)
                    os.replace(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _write_adapter(self, variant: Variant, folder: Path) -> None:
        new, config = dict[str, Tensor](), dict(self._saved.config)
        for name, keys in self._saved.keys.items():
            new |= zip(keys, (part.contiguous() for part in self._pair(name, variant)), strict=True)
            rank, stored = len(new[keys.a]), len(self.factors[name].a)
            if rank != stored:
                stabilised = bool(config.get("use_rslora"))
                alpha = alpha_of(rank, stored, self._saved.config["lora_alpha"], rank_stabilised=stabilised)
                config |= {"r": rank, "lora_alpha": int(alpha) if alpha.is_integer() else alpha}
        save_file(self._saved.tensors | new, folder / WEIGHTS_NAME, metadata=self._saved.metadata)
        write_json(folder / CONFIG_NAME, config)
        self.tokenizer.save_pretrained(folder)

    def _value(self, name: str, variant: Variant) -> Tensor:
        """A weight of a variant."""
        pristine = self._pristine[name]
        if self.factors:
            return pristine + self._delta(name, variant).to(pristine.dtype)
        return torch.lerp(pristine, self._tuned[name].to(self._device), variant.kept.get(name, 1.0))

    def _delta(self, name: str, variant: Variant) -> Tensor:
        """s·BA as PEFT merges it."""
        pair = self._pair(name, variant)
        a, b = ((part.float() if part.itemsize < 4 else part).to(self._device) for part in pair)
        product = (b @ a) * self.scale(name)
        return product.T if self._saved.config.get("fan_in_fan_out") else product

    def _pair(self, name: str, variant: Variant) -> Update:
        """A module's A and B as they are stored."""
        a, b = self.factors[name]
        if name in variant.factors:
            return Update(variant.factors[name].a.to(a.dtype), variant.factors[name].b.to(b.dtype))
        return Update(a, b * variant.kept.get(name, 1.0))

    @cached_property
    def projected(self) -> dict[str, tuple[Tensor, float]]:
        """Safe LoRA's new B, and cos(ĈBA, BA), of every module that has an alignment direction; none without a base."""
        if self.base is None or not self.factors:
            return {}
        new, report = project(self.factors, self.base, self.aligned, mode="threshold", threshold=1.0)
        return {one.name: (new[one.name], one.cosine) for one in report.modules if one.cosine is not None}

    def scale(self, name: str) -> float:
        """α/r of an adapter's module."""
        return self._saved.scaling(name)

    @property
    def uniform(self) -> bool:
        """Whether all modules of an adapter have one rank and one α."""
        return not (self._saved.config.get("rank_pattern") or self._saved.config.get("alpha_pattern"))

    @property
    def lora(self) -> dict[str, Any]:
        """Rank and α of an adapter, as PEFT's configuration names them."""
        return {name: self._saved.config[name] for name in ("r", "lora_alpha")}

    def _read_adapter(self) -> dict[str, Tensor]:
        try:
            saved = self._saved = read_adapter(self.folder)
        except ValueError as error:
            hint = "" if (self.folder / PICKLED_NAME).exists() else " Or merge it and audit the merged checkpoint."
            raise ValueError(f"{error}{hint}") from None
        if others := [key for key in saved.tensors if not FACTOR_KEY.fullmatch(key)]:
            raise ValueError(
                f"{self.folder}: holds {others[0]!r} beside its LoRA factors, as modules_to_save and bias leave it, "
                "which no repair undoes: merge it and audit the merged checkpoint"
            )
        transposed, weights = bool(saved.config.get("fan_in_fan_out")), {}
        modules = dict(self.model.named_modules())
        self.trained_on = named = str(saved.config.get("base_model_name_or_path") or "a model that it does not name")
        if Path(named).name != Path(self.source).name:  # models of one shape cannot be told apart by their weights
            log.warning(f"{self.folder}: was trained on {named}, and --aligned={self.source}: are they the same model?")
        for name, keys in saved.keys.items():
            a, b = saved.tensors[keys.a], saved.tensors[keys.b]
            weight = getattr(modules.get(name), "weight", None)
            shape = (a.shape[1], b.shape[0]) if transposed else (b.shape[0], a.shape[1])
            if weight is None or tuple(weight.shape) != shape:
                found = "no such module" if weight is None else f"a weight of {'×'.join(map(str, weight.shape))}"
                raise ValueError(
                    f"{self.folder}: an adapter of another model: {name} is {shape[0]}×{shape[1]} in it, and "
                    f"--aligned={self.aligned} has {found}; it was trained on {named}"
                )
            if sharing := [
                other
                for other, module in modules.items()
                if getattr(module, "weight", None) is weight and other != name
            ]:
                raise ValueError(
                    f"{self.folder}: changes {name}, whose weight {sharing[0]} shares: merged, as it is asked here, it "
                    "would change both, and loaded by PEFT one. Untie them, merge it and audit the merged checkpoint"
                )
            weights[name], self.factors[name] = weight, Update(a, b)
        return weights

    def _read_checkpoint(self) -> dict[str, Tensor]:
        other = dict(load_model(self.folder, self.dtype, torch.device("cpu")).named_parameters())
        here = dict(self.model.named_parameters())
        for name in sorted(here.keys() | other.keys()):
            shapes = [tuple(side[name].shape) if name in side else None for side in (here, other)]
            if shapes[0] != shapes[1]:
                size = self.model.get_input_embeddings().num_embeddings
                cut = f"; if only its embeddings were resized, save it after model.resize_token_embeddings({size})"
                resized = shapes[1] and shapes[0] == (size, *shapes[1][1:])
                raise ValueError(
                    f"{self.folder}: {name} is {shapes[1] or 'missing'} in it and {shapes[0] or 'missing'} in "
                    f"--aligned={self.aligned}: a fine-tune of another model; give the model that it "
                    f"was tuned from{cut if resized else ''}"
                )
        changed = {name: weight for name, weight in here.items() if not torch.equal(weight.cpu(), other[name])}
        if not changed:
            raise ValueError(f"{self.folder}: has the same weights as --aligned={self.aligned}: nothing was tuned")
        self._tuned = {name: other[name].detach() for name in changed}
        return changed


def require_absent(out: Path) -> None:
    """ValueError for a folder that is there: it may hold an adapter that somebody uses."""
    if out.exists():
        raise ValueError(f"{out}: is there already; take it away, or name another folder")


def checkpoint_folder(source: str, key: str) -> Path:
    """The local folder of a whole checkpoint; ValueError for anything else, pickles and quantised weights."""
    folder = fetch_checkpoint(source, "main", key)
    _require_model(folder, key)
    return folder


def positions(folder: Path) -> int:
    """How many tokens a checkpoint reads; without a limit where its configuration states none."""
    return int(getattr(read_config(folder).get_text_config(), "max_position_embeddings", 2**31))


def _require_model(folder: Path, key: str) -> None:
    if holds_adapter(folder):
        named = read_json(folder / CONFIG_NAME).get("base_model_name_or_path") or "the one that it was trained on"
        raise ValueError(f"{key}={folder}: is an adapter, and a whole model is wanted here: {named}")
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{key}={folder}: has no config.json, and so is neither an adapter (adapter_config.json) nor a checkpoint; "
            "give a folder that save_pretrained wrote"
        )
    require_safetensors(folder, key)
    if getattr(read_config(folder), "quantization_config", None):
        raise ValueError(f"{key}={folder}: holds quantised weights, which no update is added to; give unquantised ones")


def _own_template(folder: Path) -> Any:
    """The chat template that a fine-tune came with; None where there is none."""
    return read_tokenizer(folder).chat_template if (folder / "tokenizer_config.json").is_file() else None


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().cpu().float().numpy().tobytes()).hexdigest()
