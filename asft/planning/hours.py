"""Wall time of a sweep: from finished cells of the same model where there are some, else from a stated rate."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from asft.cells.cell import CellConfig
from asft.cells.keys import plan
from asft.config import PretrainedModel, SafetyTunedModel
from asft.planning.shape import Shape
from asft.planning.tokens import answer_tokens
from asft.planning.trainings import steps
from asft.store.entries import CONFIG_FILE, Entry, Store, content_key

# Seconds per parameter and token, and per training step beside that (the trainer's own work, which a model of a
# million parameters feels). CPU: fitted to four fine-tunes of 500 steps of the embedded pair on two cores. GPU: 4 FLOP
# (LoRA: forward, and backward to the activations) at 1.2e14 FLOP/s and 2 FLOP (decoding in batches of 32) at 1.3e13,
# what a device of the A100 class reaches.
_STEP = 0.009
_CPU_TRAIN, _CPU_ANSWER = 6e-11, 5e-11
_GPU_TRAIN, _GPU_ANSWER = 4 / 1.2e14, 2 / 1.3e13
_FULL_TUNING = 1.5  # 6 FLOP per parameter and token instead of 4
_ORGANISM_BUILD = 140.0  # seconds on two cores
_EXPORT = 30.0  # seconds to unpack the SmolLM2 package


@dataclass
class Measured:
    """Seconds of finished cells of one model, by what they depend on. Medians of them are used: a machine that was
    busy with other things leaves outliers.

    ``step`` holds seconds of a training step by (method, task), ``answers`` seconds per possible answer token by
    task, ``derived`` seconds of a post-hoc method's stage, ``judge`` seconds of judging by judge.
    """

    cells: int = 0
    step: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    derived: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    judge: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Rate:
    """Tokens per second of training and of generating, where they are from, and seconds of each step beside that."""

    train: float
    answer: float
    source: str
    step: float = 0.0


def default_rate(cell: CellConfig, shape: Shape, gpu: bool) -> Rate:
    """The documented default of this device class."""
    full = _FULL_TUNING if cell.training.name == "full" else 1.0
    train, answer = (_GPU_TRAIN, _GPU_ANSWER) if gpu else (_CPU_TRAIN, _CPU_ANSWER)
    device = "one GPU of the A100 class" if gpu else "two CPU cores"
    return Rate(
        1 / (shape.parameters * train * full),
        1 / (shape.parameters * answer),
        f"default for {device}: state yours with --rate, or finish a cell",
        _STEP,
    )


def measured(cell: CellConfig) -> Measured:
    """What the store's finished cells of the cell's model and kind of training took."""
    found, seen = Measured(), set()
    for entry, config in finished(Store(cell.outputs), "cells"):
        if not same_model(config, cell) or config["training"]["name"] != cell.training.name:
            continue
        found.cells += 1
        task, method = config["dataset"]["name"], config["method"]["name"]
        found.judge[config["judge"]["name"]].append(entry.seconds)
        stages = entry.result["stages"]
        for stage in (stages.get("train"), stages["generate"]):
            if stage is None or stage["key"] in seen:
                continue
            seen.add(stage["key"])
            result = stage["result"]
            if "parent" in result:
                found.derived[method].append(stage["seconds"])
            elif "steps" in result:
                found.step[method, task].append(stage["seconds"] / result["steps"])
            elif _asked_alike(config, cell):
                found.answers[task].append(stage["seconds"] / _possible(config))
    return found


def finished(store: Store, kind: Literal["cells", "measures"]) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Each finished cell of a kind with its resolved configuration, by key."""
    for folder in sorted((store.root / kind).glob("*/")):
        entry = store.find(kind, folder.name)
        if entry is not None and (folder / CONFIG_FILE).exists():
            yield entry, json.loads((folder / CONFIG_FILE).read_text())


def same_model(config: Mapping[str, Any], cell: CellConfig) -> bool:
    """Whether a stored configuration is of the cell's model on the cell's device."""
    wanted = cell.plain()
    return all(config[part] == _as_json(wanted[part]) for part in ("model", "device"))


def _asked_alike(config: Mapping[str, Any], cell: CellConfig) -> bool:
    """Whether answers are by the cell's backend, and all made: a disguised cell copies those to the task's rows."""
    jailbreak, backend = (config.get(part, {}).get("name") for part in ("jailbreak", "backend"))
    return (jailbreak or "none", backend or "hf") == ("none", cell.backend.name)  # older configurations have neither


def training_seconds(cell: CellConfig, tokens: int, known: Measured, rate: Rate) -> float:
    """One fine-tune: its steps at the seconds of like ones, nearest first, else its tokens at the rate."""
    method, task = cell.method.name, cell.dataset.name
    of_task = [value for (_, other), values in known.step.items() if other == task for value in values]
    anything = [value for values in known.step.values() for value in values]
    like = known.step.get((method, task)) or of_task or anything
    return steps(cell) * median(like) if like else tokens / rate.train + steps(cell) * rate.step


def cell_seconds(cell: CellConfig, known: Measured, rate: Rate) -> float:
    """What a cell takes beside its fine-tunes: a post-hoc method's stage, answers, and verdicts where measured."""
    tokens = answer_tokens(cell)
    of_task = known.answers.get(cell.dataset.name) or [value for values in known.answers.values() for value in values]
    answers = tokens * median(of_task) if of_task else tokens / rate.answer
    derived = known.derived.get(cell.method.name, [0.0]) if cell.method.parent else [0.0]
    return answers + median(derived) + median(known.judge.get(cell.judge.name, [0.0]))


def reading_seconds(tokens: float, rate: Rate) -> float:
    """Reading long prompts: forward alone, half of what LoRA's fine-tunes do with a token."""
    return tokens / (2 * rate.train)


def building_seconds(cell: CellConfig, rate: Rate) -> float:
    """Making the pair ready, where that is more than a download: the embedded pair's build, or a safety fine-tune."""
    model = cell.model
    if isinstance(model, PretrainedModel) or Store(cell.outputs).find("pairs", content_key(plan(cell).pair)):
        return 0.0
    if not isinstance(model, SafetyTunedModel):
        return _ORGANISM_BUILD
    tokens = (model.refusals + model.benign) * model.epochs * model.max_length / 2  # rows fill half of it or so
    return _EXPORT + tokens / rate.train * _FULL_TUNING


def _possible(config: Mapping[str, Any]) -> int:
    """Answer tokens that a finished cell could have generated, as :func:`asft.planning.tokens.answer_tokens`."""
    evaluation, dataset = config["evaluation"], config["dataset"]
    harmful: int = evaluation["n_harmful"] * evaluation["harmful_max_new_tokens"]
    task: int = dataset["n_test"] * dataset["max_new_tokens"]
    return harmful + task


def _as_json(value: Any) -> Any:
    """A configuration's part as it reads after a round through JSON (tuples become lists)."""
    return json.loads(json.dumps(value))
