"""A model pair: the base checkpoint and its aligned twin, whatever they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
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
