"""Batched greedy generation: sorted by length, padded on the left, the same text as one prompt at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TypeVar

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from asft.distributed.team import team
from asft.models.pair import require_embeddings
from asft.store.heartbeat import tell
from asft.store.meter import release_memory
from asft.store.partial import PartialRows

log = logging.getLogger(__name__)
T = TypeVar("T")


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    partial: PartialRows | None = None,
    on_smaller: Callable[[int], None] = lambda size: None,
    ends: Sequence[int] = (),
) -> list[str]:
    """Greedy answers to ``prompts`` (token ids), in their order, as :func:`texts_of` reads them.

    Prompts of like length share a batch, so little is spent on padding; the longest come first, so that a
    batch too large for the memory fails at once and not after an hour. Such a batch is halved. Several processes
    call it together and take the batches in turn; the first one adds to ``partial``.

    Answers of an interrupted run, in ``partial``, are not asked for again; each batch is added when it is done.
    ``ends`` are tokens that end an answer beside those that model and tokenizer name.
    ``on_smaller`` is told how many rows at once fitted into memory when a batch did not; ValueError when a single
    prompt does not fit, and when logits are NaN.
    """
    require_embeddings(model, tokenizer, prompts)
    model.eval()
    eos = stop_tokens(model.generation_config, tokenizer, ends)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
    )
    workers = team()
    answers: dict[int, str] = workers.first(lambda: partial.load(str)) if partial else {}
    batches = [batch for batch in length_sorted(prompts, batch_size) if not answers.keys() >= set(batch)]
    size = batch_size

    def answer(rows: list[int]) -> list[str]:
        ids, mask = pad_left([prompts[row] for row in rows], pad)
        seen = _NaNs(ids.shape[1], torch.tensor([*eos, pad], device=model.device))
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([seen]),
        )
        if seen.any:
            raise no_numbers(model)
        return texts_of(tokenizer, output[:, ids.shape[1] :].tolist(), eos)

    while batches:
        mine = batches[: workers.size][workers.rank :][:1]  # none, where the last turn does not go round
        found, at_once = fitting(answer, mine, size)
        parts = workers.gather((found, at_once))
        found = {row: text for part, _ in parts for row, text in part.items()}
        batches = batches[workers.size :]
        if (smallest := min(at_once for _, at_once in parts)) < size:
            size = smallest
            batches = [batch[start : start + size] for batch in batches for start in range(0, len(batch), size)]
            on_smaller(size)
        answers |= found
        if partial and workers.rank == 0:
            partial.append(found)
        tell(len(answers), len(prompts), "answer")
    return [answers[index] for index in range(len(prompts))]


class _NaNs(LogitsProcessor):
    """Whether logits of an answer that goes on were NaN: greedy decoding takes token 0 then, which may be padding.

    It is asked after the last step, since a GPU need not be waited for at each. ``width`` is the prompts'.
    """

    def __init__(self, width: int, ends: torch.Tensor) -> None:
        self._width, self._ends, self._found = width, ends, torch.zeros((), dtype=torch.bool, device=ends.device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ended = torch.isin(input_ids[:, -1], self._ends) & (input_ids.shape[1] > self._width)
        self._found |= (scores.amax(-1).isnan() & ~ended).any()
        return scores

    @property
    def any(self) -> bool:
        return bool(self._found)


def no_numbers(model: PreTrainedModel) -> ValueError:
    """What is raised where logits are NaN."""
    return ValueError(
        f"the model's logits are no numbers in {model.dtype}; answer in another number format (evaluation.dtype under "
        "protocol=clean, judge.dtype, or --dtype of an audit)"
    )


def texts_of(tokenizer: PreTrainedTokenizerBase, answers: Iterable[Sequence[int]], ends: Sequence[int]) -> list[str]:
    """Texts of answers (token ids), each up to its first end token, special tokens removed and stripped.

    The tokenizer need not call an end token special: a chat template's may be an ordinary one.
    """
    cut = [list(takewhile(lambda token: token not in ends, answer)) for answer in answers]
    return [text.strip() for text in tokenizer.batch_decode(cut, skip_special_tokens=True)]


def fitting(ask: Callable[[list[int]], list[T]], batches: Sequence[list[int]], size: int) -> tuple[dict[int, T], int]:
    """Answers to batches of at most ``size`` rows at once, and the size: halved as often as it took to fit."""
    found: dict[int, T] = {}
    rows = [row for batch in batches for row in batch]
    while rows:
        part = rows[:size]
        try:
            found |= dict(zip(part, ask(part), strict=True))
        except torch.OutOfMemoryError:
            if (size := len(part)) == 1:
                raise ValueError(
                    "evaluation.batch_size: out of memory with one prompt at a time. Lower "
                    "evaluation.harmful_max_new_tokens or dataset.max_new_tokens, or choose a smaller model."
                ) from None
            release_memory()
            log.warning("out of memory with %d prompts at once: going on with %d", size, size // 2)
            size //= 2
        else:
            rows = rows[size:]
    return found, size


def length_sorted(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yields batches of prompt indices, longest first."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of shape (batch, longest prompt), int64."""
    ids = [torch.tensor(prompt) for prompt in prompts]
    shown = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad, padding_side="left"),
        pad_sequence(shown, batch_first=True, padding_side="left"),
    )


def stop_tokens(
    defaults: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int] = ()
) -> list[int]:
    """Ids that end an answer: the tokenizer's, the checkpoint's (a chat model often names several), and ``ends``."""
    configured = defaults.eos_token_id if defaults is not None else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [tokenizer.eos_token_id, *listed, *ends] if token is not None})
