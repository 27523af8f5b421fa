"""A model pair: the base checkpoint and its aligned twin, whatever they come from."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from asft.config import Dtype, Quantization, Side
from asft.distributed.team import team
from asft.door import read_adapted, read_config, read_model, read_tokenizer
from asft.models.checkpoints import SMALL, holds_adapter
from asft.models.gpu import unseen_gpu

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Two local folders of safetensors with one tokenizer, the aligned side's.

    Attributes:
        key: identifies the weights of both sides in content keys.
        quantization, device_map: see :class:`asft.config.PretrainedModel`.
    """

    base: Path
    aligned: Path
    key: str
    dtype: Dtype = "float32"
    quantization: Quantization | None = None
    device_map: str | None = None

    def path(self, start: Side | Path) -> Path:
        """The folder of one side; that of a checkpoint made from the pair is its own."""
        if isinstance(start, Path):
            return start
        return self.base if start == "base" else self.aligned

    def load(self, start: Side | Path, device: torch.device, dtype: Dtype | None = None) -> PreTrainedModel:
        """A side, or a checkpoint made from the pair, on ``device`` in ``dtype``, or else the pair's."""
        return load_model(self.path(start), dtype or self.dtype, device, self.quantization, self.device_map)

    def trained(
        self, weights: Path, start: Side | Path, device: torch.device, dtype: Dtype | None = None
    ) -> PreTrainedModel | PeftModel:
        """A fine-tune as it was saved: a whole model, or the adapter on its start, not merged."""
        if not holds_adapter(weights):
            return load_model(weights, dtype or self.dtype, device, device_map=self.device_map)
        return read_adapted(self.load(start, device, dtype), weights)

    def finetuned(
        self,
        weights: Path | None,
        start: Side | Path,
        device: torch.device,
        dtype: Dtype | None = None,
        *,
        merge: bool = True,
    ) -> PreTrainedModel:
        """The model to be asked: the start as it is, a fully tuned model, or an adapter with its start.

        Args:
            weights: the folder of an adapter or of a whole model; None where nothing was fine-tuned.
            merge: whether the adapter is added to its start's weights, which rounds it to their grid; quantised
                weights never take one.
        """
        if weights is None:
            return self.load(start, device, dtype)
        model = self.trained(weights, start, device, dtype)
        if not isinstance(model, PeftModel):
            return model
        if self.quantization is not None or not merge:
            return model.eval()
        merged: PreTrainedModel = model.merge_and_unload()
        return merged

    def positions(self, side: Side) -> int:
        """How many tokens one side was made for, prompt and answer together."""
        config = read_config(self.path(side)).get_text_config()
        return int(config.max_position_embeddings)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The aligned side's tokenizer; a missing pad token becomes the end-of-sequence token."""
        tokenizer: PreTrainedTokenizerBase = read_tokenizer(self.aligned)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer


def load_model(
    folder: Path,
    dtype: Dtype,
    device: torch.device,
    quantization: Quantization | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> PreTrainedModel:
    """A causal language model from safetensors; pickles and remote code are refused.

    The attention is the library's choice for the architecture: sdpa, but eager for Gemma2, whose soft-capping
    sdpa does not know.
    """
    # Quantised weights are made on the device where they stay, so they are placed while loading.
    place: Any = device_map or ({"": device} if quantization else None)
    model: PreTrainedModel = read_model(
        AutoModelForCausalLM,
        folder,
        dtype=getattr(torch, dtype),
        quantization_config=_quantization_config(quantization, dtype) if quantization else None,
        device_map=place,
    )
    if place is None:
        model.to(device)
    return model.eval()


def load_like(model: PreTrainedModel | PeftModel, folder: Path) -> PreTrainedModel:
    """A checkpoint in the number format and on the device, or spread over the devices, of a model."""
    place = getattr(model, "hf_device_map", None)
    return load_model(folder, cast("Dtype", str(model.dtype).removeprefix("torch.")), model.device, device_map=place)


def require_embeddings(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Sequence[int]]
) -> None:
    """Refuses token ids that the model has no embedding for, naming the model and the token."""
    size = model.get_input_embeddings().weight.shape[0]
    highest = max((max(row) for row in rows if row), default=0)
    for what, token in ("the token", highest), ("the padding token", tokenizer.pad_token_id or 0):
        if token >= size:
            raise ValueError(
                f"{model.name_or_path}: its vocabulary has {size} embeddings, and {what} "
                f"{tokenizer.convert_ids_to_tokens(token)!r} of the aligned side's tokenizer has the id {token}. Give "
                "a checkpoint whose embeddings were resized to that tokenizer, or leave out the methods that start "
                "from this one."
            )


def require_quantization(quantization: Quantization | None) -> None:
    """Raises ValueError when weights are to be quantised and bitsandbytes is not installed."""
    if quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f'model.quantization={quantization} needs the package bitsandbytes: pip install "asft-lab[quant]"'
        )


def _quantization_config(quantization: Quantization, dtype: Dtype) -> BitsAndBytesConfig:
    """LLM.int8, or NF4 with quantised constants as QLoRA has it (Dettmers et al. 2023, arXiv:2305.14314)."""
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def resolve_device(device: str) -> torch.device:
    """``auto`` is the first GPU where there is one, ``cuda`` requires one; of several processes each has its own."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: no CUDA device is visible; use device=cpu or device=auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        _tell_unseen_gpu()
    workers = team()
    if device == "cuda" and workers.size > 1:
        return torch.device("cuda", workers.local_rank)
    return torch.device(device)


@functools.cache
def _tell_unseen_gpu() -> None:
    if text := unseen_gpu():
        log.warning("%s", text)


_USUAL = torch.get_num_threads()


def settle_threads(*, small: bool) -> None:
    """Sets torch's threads for a small or another model; OMP_NUM_THREADS, where it is set, has the last word."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if small else _USUAL)
    if small:
        _keep_memory()


@functools.cache
def _keep_memory() -> None:
    """Has glibc keep what is freed: a small model's steps take and give back the same megabytes over and over.

    Page faults were a twentieth to a tenth of the time. Elsewhere there is no such function.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(option, 2**30)


def is_small(checkpoint: Path) -> bool:
    """Whether the weights in a folder are so few that one thread is as good as several."""
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) < SMALL
