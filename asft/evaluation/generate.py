"""Batched greedy generation: sorted by length, padded on the left, the same text as one prompt at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
_REPORT_EVERY = 20.0  # seconds


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Greedy answers to ``prompts`` (token ids), in their order, special tokens removed and stripped.

    Prompts of like length share a batch, so little is spent on padding; the longest come first, so that a
    batch too large for the memory fails at once and not after an hour.
    """
    model.eval()
    eos = stop_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
    )
    answers = [""] * len(prompts)
    started = reported = time.monotonic()
    done = 0
    for batch in length_sorted(prompts, batch_size):
        ids, mask = pad_left([prompts[index] for index in batch], pad)
        output = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
        texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text.strip()
        done += len(batch)
        if time.monotonic() - reported > _REPORT_EVERY:
            reported = time.monotonic()
            left = (reported - started) / done * (len(prompts) - done)
            log.info("generated %d of %d answers, %.0f s left", done, len(prompts), left)
    return answers


def length_sorted(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yields batches of prompt indices, longest first."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of shape (batch, longest prompt), int64."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an answer: the tokenizer's and the checkpoint's (a chat model often names several)."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [tokenizer.eos_token_id, *listed] if token is not None})
