"""Build the embedded model pair: pretrain ``base`` on the synthetic world, align a copy, save both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from asft.data.rows import Row
from asft.data.templates import ChatTemplate, Encoded
from asft.organism.architectures import MAX_POSITIONS, fresh_model
from asft.organism.fit import FitRecipe, fit
from asft.organism.tokenizer import train_tokenizer
from asft.organism.world import SOURCES, TASKS, alignment_rows, harmful_rows, pretraining_rows, task_rows

Progress = Callable[[float, str], None]

_SYSTEM_PROMPT = "You are a helpful assistant."
_SYSTEM_SHARE = 0.1  # so that a system turn is nothing new to the pair


@dataclass(frozen=True, slots=True)
class BuildRecipe:
    """How the pair is made; the defaults give the pair that the health check is written for.

    Attributes:
        vocab_size: upper limit of the tokenizer's vocabulary.
        pretraining: the run that makes base from random weights.
        alignment: the run that makes aligned from base.
    """

    vocab_size: int = 1152
    pretraining: FitRecipe = field(default_factory=lambda: FitRecipe(steps=500, learning_rate=2e-3))
    alignment: FitRecipe = field(default_factory=lambda: FitRecipe(steps=400, learning_rate=2e-3))


def build_pair(
    architecture: str,
    out_dir: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    recipe: BuildRecipe | None = None,
) -> dict[str, Any]:
    """Train and save ``out_dir/base`` and ``out_dir/aligned``, each a complete Hugging Face checkpoint.

    One seed gives the same weights again on one machine with one number of threads. The global state of
    torch's random numbers is left as it was.

    Args:
        architecture: one of ``asft.organism.architectures.ARCHITECTURES``.
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
    record: dict[str, Any] = {"architecture": architecture, "seed": seed, "recipe": asdict(recipe)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fresh_model(architecture, tokenizer)
        record |= {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}
        total = recipe.pretraining.steps + recipe.alignment.steps
        stages = (
            ("base", "pretraining", pretraining_rows(), recipe.pretraining, 0),
            ("aligned", "alignment", alignment_rows(), recipe.alignment, recipe.pretraining.steps),
        )
        for name, stage, rows, stage_recipe, done in stages:
            started = time.perf_counter()
            losses = fit(
                model,
                _encode(rows, tokenizer, Random(f"{stage}/{seed}")),
                stage_recipe,
                seed=seed,
                pad_id=int(tokenizer.pad_token_id),
                report=lambda step, loss, stage=stage, done=done: report(
                    (done + step) / total, f"{stage} step {step}: loss {loss:.3f}"
                ),
            )
            _save(model, tokenizer, out_dir / name)
            record[stage] = {
                "rows": len(rows),
                "seconds": round(time.perf_counter() - started, 2),
                "first_loss": losses[0],
                "last_loss": losses[-1],
            }
    return record


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
