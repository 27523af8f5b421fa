"""A PEFT LoRA adapter on disk: its factors by module name, or a reason why it is not plain LoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from peft.utils.other import get_pattern_key
from torch import Tensor

from asft.anchor.names import PEFT_PREFIX, plain_name
from asft.door import open_weights, read_json, read_lora

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLED_NAME = "adapter_model.bin"
# Initialisations that take B₀A₀ out of the base weight: BA is then not the change of the weight.
SHIFTING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
FACTOR_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# Fields of a LoRA configuration under which the update is no longer s·BA on its own module.
VARIANTS = (
    "use_dora", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config", "layer_replication", "target_parameters",
)  # fmt: skip


class FactorKeys(NamedTuple):
    """Tensor keys of one module's A (r×i) and B (o×r)."""

    a: str
    b: str


@dataclass(frozen=True, eq=False, slots=True)
class SavedAdapter:
    """An adapter directory: ``adapter_config.json``, and all of ``adapter_model.safetensors`` with its metadata.

    ``keys`` says where each module's factors are in ``tensors``, by base module name. A and B are told apart by key,
    never by shape, so r = o is no special case.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str] | None
    keys: dict[str, FactorKeys]

    def scaling(self, module: str) -> float:
        """s of one module: α/r, or α/√r for rank-stabilised LoRA, with PEFT's per-module patterns."""
        alphas: dict[str, float] = self.config.get("alpha_pattern") or {}
        alpha = alphas.get(get_pattern_key(list(alphas), module), self.config.get("lora_alpha", 8))
        rank = self.tensors[self.keys[module].a].shape[0]
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def read_adapter(path: str | Path) -> SavedAdapter:
    """Read a plain LoRA adapter; ValueError for anything else, and for factors that are empty or alone."""
    path = Path(path)
    where = f"adapter={str(path)!r}"
    if not path.is_dir():
        raise ValueError(f"{where} is no folder here: give a local one (`hf download NAME` fetches one).")
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (path / name).is_file():
            raise ValueError(f"{where} has no {name}{_hint(path)}")
    config = read_json(path / CONFIG_NAME)
    check_config(config, where)
    read_lora(path / CONFIG_NAME)
    with open_weights(path / WEIGHTS_NAME) as handle:
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
        metadata = handle.metadata()
    return SavedAdapter(path, config, tensors, metadata, _factor_keys(where, tensors))


def _hint(path: Path) -> str:
    """What to do where a file of the adapter is missing."""
    named = sorted(file.parent.name for file in path.glob(f"*/{CONFIG_NAME}"))
    if named:
        return f", but its folders {named} have: give one of them."
    if (path / PICKLED_NAME).exists():
        return f" ({PICKLED_NAME} is pickled and never loaded): save it again with save_pretrained."
    return ": give a folder that PEFT's save_pretrained wrote."


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raise ValueError, saying ``where``, unless the configuration is that of an adapter whose update is s·BA."""
    kind = config.get("peft_type")
    kind = getattr(kind, "value", kind)
    if kind != "LORA":
        raise ValueError(f"{where} has peft_type={kind}: only LORA is supported.")
    variant = next((name for name in VARIANTS if config.get(name)), None)
    if variant:
        label = "DoRA" if variant == "use_dora" else variant
        raise ValueError(f"{where} uses {label}: its update is not BA alone; only plain LoRA is supported.")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(SHIFTING_INITS):
        raise ValueError(
            f"{where} has init_lora_weights={init!r}, which moves part of the base weight into BA: its BA is not the "
            "change of the weight; use True, 'gaussian', 'eva' or 'orthogonal'."
        )


def _factor_keys(where: str, tensors: Mapping[str, Tensor]) -> dict[str, FactorKeys]:
    found: dict[str, dict[str, str]] = {}
    for key, tensor in tensors.items():
        match = FACTOR_KEY.fullmatch(key)
        if match and tensor.numel() == 0:
            raise ValueError(
                f"{where}: {key!r} is empty (shape {tuple(tensor.shape)}), as ZeRO-3 leaves a shard: gather the "
                "weights before saving (zero_to_fp32.py, or stage3_gather_16bit_weights_on_model_save)."
            )
        if ".lora_embedding_" in key or (match and tensor.dim() != 2):
            raise ValueError(f"{where}: {key!r} adapts no linear module; only those are supported.")
        if match and not key.startswith(PEFT_PREFIX):
            raise ValueError(
                f"{where}: {key!r} does not start with {PEFT_PREFIX!r} as PEFT has it, and so PEFT would not load it: "
                "take what is before it away from the keys, or save the unwrapped model."
            )
        if match:
            module = plain_name(match["module"])
            found.setdefault(module, {})[match["factor"]] = key
    if not found:
        raise ValueError(f"{where} has no lora_A and lora_B weights of linear modules.")
    lonely = next((module for module, keys in found.items() if len(keys) < 2), None)
    if lonely:
        raise ValueError(f"{where}: module {lonely!r} has only one of lora_A and lora_B.")
    return {module: FactorKeys(keys["A"], keys["B"]) for module, keys in found.items()}
