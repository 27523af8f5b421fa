"""Which of several answers a model holds most likely: no text is generated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft.backends.generate import fitting, length_sorted, no_numbers, pad_left
from asft.models.pair import require_embeddings
from asft.store.heartbeat import tell

Ids = Sequence[int]


@torch.inference_mode()
def choose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    options: Sequence[Sequence[Ids]],
    *,
    batch_size: int,
) -> list[int]:
    """For each prompt the place of the option with the highest log-likelihood, summed over its tokens.

    That is ``acc`` of lm-eval (https://github.com/EleutherAI/lm-evaluation-harness), not divided by lengths.
    """
    places = [(row, option) for row, many in enumerate(options) for option in range(len(many))]
    texts = [[*prompts[row], *options[row][option]] for row, option in places]
    lengths = [len(options[row][option]) for row, option in places]
    require_embeddings(model, tokenizer, texts)
    model.eval()

    def score(batch: list[int]) -> list[float]:
        ids, mask = (part.to(model.device) for part in pad_left([texts[place] for place in batch], 0))
        kept = max(lengths[place] for place in batch)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=kept + 1).logits
        wanted = ids[:, -kept:, None]
        told = logits[:, :-1].float().log_softmax(-1).gather(-1, wanted)[..., 0].cpu()
        if told.isnan().any():
            raise no_numbers(model)
        return [row[-lengths[place] :].sum().item() for row, place in zip(told, batch, strict=True)]

    scores: dict[int, float] = {}
    for batch in length_sorted(texts, batch_size):
        found, batch_size = fitting(score, [batch], batch_size)
        scores |= found
        tell(len(scores), len(texts), "option")
    best: dict[int, tuple[float, int]] = {}
    for place, (row, option) in enumerate(places):
        best[row] = max(best.get(row, (float("-inf"), -1)), (scores[place], -option))
    return [-best[row][1] for row in range(len(prompts))]
