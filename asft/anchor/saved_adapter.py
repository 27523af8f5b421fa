"""A PEFT LoRA adapter on disk: its factors by module name, or a reason why it is not plain LoRA."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor

from asft.anchor.names import PEFT_PREFIX

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
# Initialisations that take B₀A₀ out of the base weight: BA is then not the change of the weight.
SHIFTING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
FACTOR_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# Fields of adapter_config.json under which the update is no longer s·BA on its own module.
VARIANTS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "layer_replication",
    "target_parameters",
)


class FactorKeys(NamedTuple):
    """Tensor keys of one module's A (r×i) and B (o×r)."""

    a: str
    b: str


@dataclass(frozen=True, eq=False, slots=True)
class SavedAdapter:
    """The contents of an adapter directory.

    Attributes:
        path: the directory.
        config: ``adapter_config.json``.
        tensors: ``adapter_model.safetensors``, all of it.
        keys: where each module's factors are in ``tensors``, by base module name. A and B are told apart by
            key, never by shape, so r = o is no special case.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    keys: dict[str, FactorKeys]

    def scaling(self, module: str) -> float:
        """s of one module: α/r, or α/√r for rank-stabilised LoRA, with PEFT's per-module patterns."""
        alphas: dict[str, float] = self.config.get("alpha_pattern") or {}
        alpha = alphas.get(get_pattern_key(list(alphas), module), self.config["lora_alpha"])
        rank = self.tensors[self.keys[module].a].shape[0]
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def read_adapter(path: str | Path) -> SavedAdapter:
    """Read a plain LoRA adapter.

    Raises:
        ValueError: no adapter there, pickled weights, another adapter type, a LoRA variant or initialisation
            whose BA is not the change of the weight, or a factor without its partner.
    """
    path = Path(path)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (path / name).is_file():
            pickled = (path / "adapter_model.bin").exists()
            hint = " (adapter_model.bin is pickled and never loaded)" if pickled else ""
            raise ValueError(f"adapter={str(path)!r} has no {name}{hint}: save it again with save_pretrained.")
    config: dict[str, Any] = json.loads((path / CONFIG_NAME).read_text())
    _check_config(path, config)
    tensors = load_file(path / WEIGHTS_NAME)
    return SavedAdapter(path, config, tensors, _factor_keys(path, tensors))


def _check_config(path: Path, config: dict[str, Any]) -> None:
    where = f"adapter={str(path)!r}"
    if config["peft_type"] != "LORA":
        raise ValueError(f"{where} has peft_type={config['peft_type']}: only LORA is supported.")
    variant = next((field for field in VARIANTS if config.get(field)), None)
    if variant:
        label = "DoRA" if variant == "use_dora" else variant
        raise ValueError(f"{where} uses {label}: its update is not BA; only plain LoRA is supported.")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith((*SHIFTING_INITS, "mica")):
        raise ValueError(f"{where} has init_lora_weights={init!r}: its BA is not the change of the weight.")


def _factor_keys(path: Path, tensors: dict[str, Tensor]) -> dict[str, FactorKeys]:
    found: dict[str, dict[str, str]] = {}
    for key in tensors:
        match = FACTOR_KEY.fullmatch(key)
        if ".lora_embedding_" in key or (match and tensors[key].dim() != 2):
            raise ValueError(f"adapter={str(path)!r}: {key!r} adapts no linear module; only those are supported.")
        if match:
            found.setdefault(match["module"].removeprefix(PEFT_PREFIX), {})[match["factor"]] = key
    if not found:
        raise ValueError(f"adapter={str(path)!r} has no lora_A and lora_B weights of linear modules.")
    lonely = next((module for module, keys in found.items() if len(keys) < 2), None)
    if lonely:
        raise ValueError(f"adapter={str(path)!r}: module {lonely!r} has only one of lora_A and lora_B.")
    return {module: FactorKeys(keys["A"], keys["B"]) for module, keys in found.items()}
