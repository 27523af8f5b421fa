"""The four architectures of the embedded pair: what each checks is named in ``ARCHITECTURES``."""

from __future__ import annotations

from collections.abc import Callable

from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
)

MAX_POSITIONS = 1024
# The usual 0.02 suits wide models; at width 128 it leaves the tasks unlearned after the few steps of the build.
_INITIALIZER_RANGE = 0.05
_WIDTH, _LAYERS, _HEADS, _KV_HEADS, _MLP_WIDTH = 128, 4, 4, 2, 344


def _llama(tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    return LlamaConfig(**_sizes(tokenizer), num_key_value_heads=_HEADS)


def _llama_gqa(tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    return LlamaConfig(**_sizes(tokenizer), num_key_value_heads=_KV_HEADS)


def _qwen2(tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    return Qwen2Config(**_sizes(tokenizer), num_key_value_heads=_KV_HEADS)


def _gemma2(tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    head_dim = _WIDTH // _HEADS
    return Gemma2Config(
        **_sizes(tokenizer),
        num_key_value_heads=_KV_HEADS,
        head_dim=head_dim,
        query_pre_attn_scalar=head_dim,
        sliding_window=MAX_POSITIONS // 2,
    )


ARCHITECTURES: dict[str, Callable[[PreTrainedTokenizerBase], PretrainedConfig]] = {
    "llama": _llama,  # multi-head attention: every adapted matrix is square
    "llama_gqa": _llama_gqa,  # narrow k_proj and v_proj
    "qwen2": _qwen2,  # biases on q_proj, k_proj, v_proj, and narrow k_proj and v_proj
    "gemma2": _gemma2,  # soft-capped logits, sliding windows, four norms a layer
}


def fresh_model(architecture: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A randomly initialised model; the caller seeds torch.

    Raises:
        ValueError: when the architecture is not one of ``ARCHITECTURES``.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture={architecture!r} is unknown; choose one of: {', '.join(ARCHITECTURES)}")
    config = ARCHITECTURES[architecture](tokenizer)
    # Soft-capping exists in the eager attention only.
    attention = "eager" if architecture == "gemma2" else "sdpa"
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def _sizes(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | bool | None]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "intermediate_size": _MLP_WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": _INITIALIZER_RANGE,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
