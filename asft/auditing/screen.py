"""``screen``: which rows of a data set are the likeliest to undo safety, before anything is trained on them.

Bi-directional anchoring on gradients (He, Xia and Henderson, arXiv:2404.01099): a row counts by how much its gradient
looks like those of a few harmful rows and unlike those of a few safe ones. Here gradients are those of a new LoRA
adapter (of its B, A being drawn at random), and the loss is over the answer's first tokens, where refusals are decided.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from asft.auditing.exam import learned, place_of, read_task, task_rows
from asft.auditing.subject import checkpoint_folder, positions
from asft.config import Dtype
from asft.data.rows import Row, prompt_form, user_text
from asft.data.templates import IGNORED, ChatTemplate, Encoded
from asft.judges.base import Judge
from asft.models.pair import Pair, is_small, load_model, resolve_device, settle_threads

log = logging.getLogger(__name__)

WORDS = re.compile(  # what a list of keywords would look for: the baseline
    r"\b(kill|murder|suicid|bomb|explosiv|weapon|gun|poison|hack|malware|virus|phish|steal|fraud|launder|counterfeit|drug"
    r"|cocaine|meth|rape|porn|abus|tortur|terror|racis|nazi|slur|stalk|kidnap|blackmail|forg)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Screened:
    """Each row's numbers, in the rows' order.

    Attributes:
        places: of rows in their file, from 0.
        likeness: cosine with the mean harmful gradient less that with the mean safe one, in [−2, 2]; higher is worse.
        loss: of the answer's first tokens, in nats a token.
        words: whether a keyword occurs.
        judged: a judge's score, in [0, 1]; empty without one.
        fresh: whether a row's prompt is none of those that the gradients to look like, or unlike, are taken of.
    """

    rows: tuple[Row, ...]
    places: tuple[int, ...]
    likeness: tuple[float, ...]
    loss: tuple[float, ...]
    words: tuple[bool, ...]
    judged: tuple[float, ...] = ()
    fresh: tuple[bool, ...] = ()

    @property
    def scores(self) -> dict[str, Sequence[float]]:
        """By name, each a ranking: the higher the worse."""
        found: dict[str, Sequence[float]] = {"likeness": self.likeness, "loss": self.loss, "keyword": self.words}
        return found | ({"judge": self.judged} if self.judged else {})

    def ranking(self) -> list[int]:
        """Places of rows, the likeliest to undo safety first."""
        return sorted(range(len(self.rows)), key=lambda at: -self.likeness[at])


def screen(
    rows: str | Path,
    aligned: str | Path,
    *,
    harmful: str | Path,
    safe: str | Path,
    tokens: int = 10,
    rank: int = 4,
    seed: int = 0,
    judge: Judge | None = None,
    dtype: Dtype = "float32",
    device: str = "auto",
) -> Screened:
    """Ranks rows, and leaves out none.

    Args:
        rows: a file or hub dataset with ``instruction``, ``input`` and ``output``.
        aligned: folder or hub id of the model that would be tuned.
        harmful, safe: the same of a few malicious requests with compliant answers, and with refusals.
        tokens: of each answer that the loss is over.
        rank, seed: of the adapter whose gradients are taken.
        judge: one more ranking: how harmful it finds the rows.

    Raises:
        ValueError: in one line, for rows that cannot be read, a prompt longer than the model reads among them.
    """
    if judge:
        judge.check()
    places, screened = zip(*task_rows(str(rows), "rows"), strict=True)
    bad, good = read_task(str(harmful), "--harmful"), read_task(str(safe), "--safe")
    folder = checkpoint_folder(str(aligned), "--aligned")
    template, most = ChatTemplate(Pair(folder, folder, "").tokenizer()), positions(folder)
    examples, *few = ([(row, learned(template, row, most)) for row in some] for some in (screened, bad, good))
    settle_threads(small=is_small(folder))
    torch.manual_seed(seed)
    model = get_peft_model(
        load_model(folder, dtype, resolve_device(device)), LoraConfig(r=rank, target_modules="all-linear")
    ).eval()
    weights = [weight for name, weight in model.named_parameters() if "lora_B" in name]

    def gradient(row: Row, encoded: Encoded) -> tuple[torch.Tensor, float]:
        """A row's gradient, of length 1, and its loss."""
        first = next(at for at, label in enumerate(encoded.labels) if label != IGNORED)
        ids = torch.tensor([encoded.input_ids[: first + tokens]], device=model.device)
        labels = torch.tensor([encoded.labels[: first + tokens]], device=model.device)
        loss = model(input_ids=ids, labels=labels).loss
        if not loss.isfinite():
            raise ValueError(f"{place_of(row)}: its loss is {loss.item()} in {dtype}; give another --dtype")
        flat = torch.cat([part.flatten().float() for part in torch.autograd.grad(loss, weights)])
        return flat / flat.norm().clamp_min(1e-30), loss.item()

    anchors = []
    for some in few:
        total = torch.zeros(sum(weight.numel() for weight in weights), device=model.device)
        for example in some:
            total += gradient(*example)[0]
        anchors.append(total / total.norm().clamp_min(1e-30))
    likeness, losses, began = [], [], time.monotonic()
    for done, example in enumerate(examples, 1):
        found, loss = gradient(*example)
        likeness.append(float(found @ anchors[0] - found @ anchors[1]))
        losses.append(loss)
        if done % 100 == 0:
            left = (time.monotonic() - began) / done * (len(screened) - done)
            log.info("%d of %d rows, about %.0f s left", done, len(screened), left)
    words = tuple(bool(WORDS.search(f"{user_text(row)} {row.output}")) for row in screened)
    texts = [user_text(row) for row in screened], [row.output for row in screened]
    judged = tuple(verdict.score for verdict in judge.judge(*texts)) if judge else ()
    anchored = {prompt_form(user_text(row)) for row in (*bad, *good)}
    fresh = tuple(prompt_form(user_text(row)) not in anchored for row in screened)
    return Screened(screened, places, tuple(likeness), tuple(losses), words, judged, fresh)


def auroc(scores: Sequence[float], flags: Sequence[bool]) -> tuple[float, float, float]:
    """The area under the ROC curve, with Newcombe's 95% score interval (Statistics in Medicine 25:559, 2006, method 5).

    ValueError unless there are both flagged rows and others.
    """
    bad = np.array([score for score, flag in zip(scores, flags, strict=True) if flag])
    good = np.array([score for score, flag in zip(scores, flags, strict=True) if not flag])
    if not len(bad) or not len(good):
        raise ValueError("AUROC: needs rows of both kinds")
    area = float(((bad[:, None] > good).mean() + (bad[:, None] >= good).mean()) / 2)
    true, size = np.linspace(0, 1, 10_001), (len(bad) + len(good)) / 2 - 1
    spread = true * (1 - true) * (1 + size * (1 - true) / (2 - true) + size * true / (1 + true))
    inside = true[np.abs(area - true) <= 1.96 * np.sqrt(spread / (len(bad) * len(good))) + 1e-9]
    return area, float(inside[0]), float(inside[-1])
