"""Making a model pair ready: building, downloading or checking it, each once, in the store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from asft.anchor.difference import CheckpointPair
from asft.cells.job import Job
from asft.config import OrganismModel, PretrainedModel, SafetyTunedModel
from asft.console import console
from asft.hub import first_commit
from asft.models.checkpoints import fetch_checkpoint
from asft.models.pair import Pair, require_quantization
from asft.models.threads import is_small, settle_threads
from asft.store.entries import content_key

log = logging.getLogger(__name__)


def prepare_pair(job: Job) -> Pair:
    """The job's pair, built or downloaded on first use.

    Raises:
        ValueError: when the two sides do not make a pair; see :class:`asft.anchor.difference.CheckpointPair`.
    """
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
        from asft.pipeline.safety_tuned import build_safety_tuned  # needs the optional SmolLM2 package

        folder = store.ensure("pairs", settings, lambda path: build_safety_tuned(job, model, path)).path
        return Pair(folder / "base", folder / "aligned", key)
    folder = store.ensure("pairs", settings, lambda path: _build_organism(model, path)).path
    return Pair(folder / "base", folder / "aligned", key)


def _build_organism(model: OrganismModel, folder: Path) -> dict[str, Any]:
    from asft.models.organism.build import build_pair

    columns = (
        TextColumn("[bold]building {task.fields[pair]}"),
        BarColumn(),
        TextColumn("{task.description}"),
    )
    if not console.is_terminal:
        log.info("building %s: pretraining, then alignment; one to two minutes on two cores", model.name)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("starting", total=1.0, pair=model.name)
        return build_pair(
            model.architecture,
            folder,
            seed=model.seed,
            progress=lambda done, text: progress.update(task, completed=done, description=text),
        )
