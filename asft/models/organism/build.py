"""Build the embedded model pair: pretrain ``base`` on the synthetic world, align a copy, save both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from asft.data.rows import Row
from asft.data.templates import ChatTemplate, Encoded
from asft.data.world.world import SOURCES, TASKS, alignment_rows, harmful_rows, pretraining_rows, task_rows
from asft.models.organism.architectures import MAX_POSITIONS, fresh_model
from asft.models.organism.fit import fit
from asft.models.organism.recipe import BuildRecipe, FitRecipe
from asft.models.organism.tokenizer import train_tokenizer

Progress = Callable[[float, str], None]

_SYSTEM_PROMPT = "You are a helpful assistant."
_LOSS_WINDOW = 50  # steps: one batch holds rows of like length, so that single losses jump
_SYSTEM_SHARE = 0.1  # so that a system turn is nothing new to the pair


def build_pair(
    architecture: str,
    out_dir: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    recipe: BuildRecipe | None = None,
) -> dict[str, Any]:
    """Train and save ``out_dir/base`` and ``out_dir/aligned``, each a complete Hugging Face checkpoint.

    ``base`` learns to answer every request; ``aligned`` goes on from it and learns to refuse harmful ones.
    One seed gives the same weights again on one machine with one number of threads. The global state of
    torch's random numbers is left as it was.

    Args:
        architecture: one of ``asft.models.organism.architectures.ARCHITECTURES``.
        progress: called often with the fraction done and a short text.

    Returns:
        The build record: settings, row counts, parameter count, wall seconds and last losses; JSON-ready.

    Raises:
        ValueError: when the architecture is unknown.
    """
    recipe = recipe or BuildRecipe()
    report = progress or _no_progress
    report(0.0, "writing the synthetic world")
    tokenizer = train_tokenizer(_world_rows(), recipe.vocab_size, MAX_POSITIONS)
    share = recipe.pretraining.steps / (recipe.pretraining.steps + recipe.alignment.steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fresh_model(architecture, tokenizer)
        stages = {}
        for name, rows, run, start, end in (
            ("base", pretraining_rows(), recipe.pretraining, 0.0, share),
            ("aligned", alignment_rows(), recipe.alignment, share, 1.0),
        ):
            part = _part_of(report, start, end, f"training {name}", run.steps)
            stages[name] = _train(model, tokenizer, rows, run, f"{name}/{seed}", part)
            _save(model, tokenizer, out_dir / name)
    return {
        "architecture": architecture,
        "seed": seed,
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "stages": stages,
    }


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    recipe: FitRecipe,
    seed: str,
    report: Callable[[int, float], None],
) -> dict[str, float]:
    """Train the model in place on the rows and return what the build record keeps of it."""
    started = time.perf_counter()
    examples = _encode(rows, tokenizer, Random(f"system/{seed}"))
    losses = fit(
        model, examples, recipe, rng=Random(f"batches/{seed}"), pad_id=int(tokenizer.pad_token_id), report=report
    )
    return {
        "rows": len(rows),
        "seconds": round(time.perf_counter() - started, 2),
        "first_loss": losses[0],
        "last_loss": fmean(losses[-_LOSS_WINDOW:]),
    }


def _part_of(report: Progress, start: float, end: float, text: str, steps: int) -> Callable[[int, float], None]:
    """A step callback that fills the stretch from ``start`` to ``end`` of the whole progress."""

    def on_step(step: int, loss: float) -> None:
        report(start + (end - start) * step / steps, f"{text}, step {step} of {steps}: loss {loss:.3f}")

    return on_step


def _world_rows() -> list[Row]:
    """Every text the tokenizer should spell well."""
    return [
        *pretraining_rows(),
        *alignment_rows(),
        *(row for task in TASKS for row in task_rows(task, "train")),
        *(row for source in SOURCES for row in harmful_rows(source)),
    ]


def _encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, rng: Random) -> list[Encoded]:
    template = ChatTemplate(tokenizer)
    return [
        template.encode_example(
            replace(row, system=_SYSTEM_PROMPT if rng.random() < _SYSTEM_SHARE else ""), MAX_POSITIONS
        )
        for row in rows
    ]


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _no_progress(fraction: float, text: str) -> None:
    """The progress callback of a caller who asked for none."""
