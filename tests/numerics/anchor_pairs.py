"""Tiny model pairs on disk and the naive formulas, for the anchor's numerical tests."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 48
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GPT2_SIZES = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
TARGETS = {
    "llama": ["q_proj", "v_proj", "up_proj", "down_proj"],
    "qwen2": ["q_proj", "v_proj"],
    "gemma2": ["q_proj", "v_proj", "up_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
}


class Stack(nn.Module):
    """A few linears of one shape, enough of a model for PEFT."""

    def __init__(self, o: int, i: int, count: int = 1) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(i, o, bias=False) for _ in range(count))


def tiny_model(kind: str) -> PreTrainedModel:
    """A randomly initialised model of a few thousand parameters; the seed is the caller's."""
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=4))
    if kind == "qwen2":  # biases on q, k, v and grouped-query attention
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2))
    if kind == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8))
    if kind == "gpt2":  # Conv1D weights, stored transposed
        return GPT2LMHeadModel(GPT2Config(**GPT2_SIZES))
    raise ValueError(kind)


def save_pair(directory: Path, kind: str, dtype: torch.dtype = torch.float32, shard: str = "50GB") -> PreTrainedModel:
    """Write ``base`` and ``aligned`` under ``directory``; returns the aligned model."""
    torch.manual_seed(7)
    model = tiny_model(kind).to(dtype)
    model.save_pretrained(directory / "base", max_shard_size=shard)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory / "aligned", max_shard_size=shard)
    return model


def with_lora(model: nn.Module, targets: list[str], rank: int = 4, **settings: object) -> PeftModel:
    """A PEFT model whose A and B are both random (PEFT starts with B = 0)."""
    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=targets, **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return adapted


def surrogate(v: Tensor) -> Tensor:
    """Ĉ = VVᵀ/‖V‖, o×o."""
    return v @ v.T / torch.linalg.matrix_norm(v)


def naive_penalty(c: Tensor, ba: Tensor, side: str = "orthogonal") -> Tensor:
    """‖(I − Ĉ)BA‖² or ‖Ĉ BA‖² with dense matrices, differentiable."""
    eye = torch.eye(len(c), dtype=c.dtype)
    return (((eye - c) if side == "orthogonal" else c) @ ba).square().sum()


def difference(directory: Path, name: str, conv1d: bool = False) -> Tensor:
    """V of one module from the two models loaded in full, o×i."""
    from transformers import AutoModelForCausalLM

    weights = [
        AutoModelForCausalLM.from_pretrained(directory / side, dtype="auto").get_submodule(name).weight.detach()
        for side in ("base", "aligned")
    ]
    v = weights[1] - weights[0]
    return v.T if conv1d else v
