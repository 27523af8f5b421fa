"""Content keys: which settings can change which stage's result.

A stage's settings are exactly those, plus the key of the stage before. Everything here is derived from the
configuration alone, so whether a cell is finished is known without running anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from asft.cells.cell import Cell
from asft.config import OrganismModel, PretrainedModel, TrainingConfig, as_plain, joined
from asft.data.base import attack_of, benign_identity, clear_of, source_of, task_of, twin_of
from asft.data.rows import digest
from asft.data.world.source import VERSION
from asft.measures.base import Measure, folder_identities
from asft.methods.post_hoc import PostHoc
from asft.metrics.base import Metric
from asft.models import smollm
from asft.models.checkpoints import checkpoint_identity
from asft.models.organism.recipe import BuildRecipe
from asft.store.entries import content_key

Settings = dict[str, Any]

# Raise a stage's number when its code starts to give another result for the same settings.
CODE = {
    "pair": 1,
    "start": 1,
    "mixture": 1,
    "train": 1,
    "generate": 1,
    "judge": 1,
    "measure": 1,
    "published measure": 2,  # of a published pair; other pairs' directions did not change
}
# And a protocol's, when it starts to decide otherwise.
PROTOCOL = {"clean": "clean", "official": "official/3"}


@dataclass(frozen=True)
class Plan:
    """The settings of every stage of one cell.

    ``mixture`` and ``train`` are None where nothing is trained, ``start`` where nothing but the pair is begun from.

    ``generate`` has a stage for each metric. ``beside`` has the settings of scores that no cell's key holds, ``asked``
    those of the answers that they ask for themselves, ``left_out`` why the data source has nothing to ask for others.
    A cell with a measure has that in place of the five stages; its
    fine-tunes are cells of their own.
    """

    pair: Settings
    mixture: Settings | None
    train: Settings | None
    generate: dict[str, Settings]
    judge: Settings
    measure: Settings | None = None
    start: Settings | None = None
    asked: dict[str, Settings] = field(default_factory=dict)
    beside: dict[str, Settings] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The cell's key: that of its last stage."""
        return content_key(self.judge if self.measure is None else self.measure)

    @property
    def kind(self) -> str:
        """The folder of the store that the finished cell is in."""
        return "cells" if self.measure is None else "measures"


def plan(cell: Cell) -> Plan:
    """Every stage's settings, in order."""
    pair = pair_settings(cell)
    start = start_settings(cell, pair)
    mixture = mixture_settings(cell) if cell.method.trains and not isinstance(cell.method, PostHoc) else None
    train = train_settings(cell, pair) if cell.method.trains else None
    untrained = content_key(start) if start else [content_key(pair), cell.method.start()]
    shared = {
        "code": CODE["generate"],
        "weights": content_key(train) if train else untrained,
        "method": cell.method.settings() if cell.method.overrides("system_prompt") else None,
        "protocol": [PROTOCOL[cell.protocol.name], cell.dataset.name],
        **_answered_in(cell),
        **({} if train is None or cell.merges else {"adapter": "beside its start"}),
    }

    def asked_by(metric: Metric) -> Settings:
        backend = cell.backend_of(metric).settings()
        return {**shared, "backend": backend, "asked": metric.asked(cell), "tokens": metric.max_new_tokens(cell)}

    generate = {name: asked_by(metric) for name, metric in cell.metrics.items()}
    judged = {
        name: joined(metric.judged(cell), answers=content_key(generate[name])) for name, metric in cell.metrics.items()
    }
    judge = {"code": CODE["judge"], "metrics": judged}
    if cell.measure:
        return Plan(pair, mixture, train, generate, judge, measure_settings(cell, cell.measure), start)
    asked, beside, left_out = dict[str, Settings](), dict[str, Settings](), dict[str, str]()
    for name, metric in cell.beside.items():
        try:
            answers = generate.get(metric.reads() or "") or asked.setdefault(name, asked_by(metric))
        except ValueError as error:
            left_out[name] = str(error)
            continue
        answered = {"cell": content_key(judge), "metric": name, "answers": content_key(answers)}
        beside[name] = {**answered, "judged": metric.judged(cell)}
    return Plan(pair, mixture, train, generate, judge, None, start, asked, beside, left_out)


def measure_settings(cell: Cell, measure: Measure) -> Settings:
    """What a measure's result depends on: the pair, the fine-tunes it asks for, and prompts and judge if it asks."""
    trainings = {name: plan(needed).train for name, needed in cell.measured().items()}
    asked = {
        "evaluation": source_of(cell).evaluation_identity(),
        "tokens": cell.evaluation.harmful_max_new_tokens,
        "protocol": PROTOCOL[cell.protocol.name],
        "judge": cell.judge.settings(),
        # The number format, which is the protocol's choice; embedded pairs have no other but under ``official``.
        **({} if cell.protocol.name == "official" or isinstance(cell.model, OrganismModel) else {"dtype": "float32"}),
    }
    return {
        "code": CODE["published measure" if isinstance(cell.model, PretrainedModel) else "measure"],
        "measure": measure.settings(),
        "pair": content_key(pair_settings(cell)),
        "updates": {name: content_key(settings) for name, settings in trainings.items() if settings},
        "folders": folder_identities(measure),
        "targets": list(cell.training.target_modules),
        "rank": cell.training.rank,
        "asked": asked if measure.asks else None,
    }


def entries(cell: Cell) -> set[tuple[str, str]]:
    """(kind, key) of every store entry that the cell is made of, those of the cells it requires included."""
    stages = plan(cell)
    if cell.measure is not None and stages.measure is not None:
        found = {("measures", stages.key), ("pairs", content_key(stages.pair))}
        return found.union(*(_weights(needed) for needed in cell.measured().values()))
    named = {
        "pairs": stages.pair,
        "stages/start": stages.start,
        "stages/mixture": stages.mixture,
        "stages/train": stages.train,
        "cells": stages.judge,
    }
    found = {(kind, content_key(settings)) for kind, settings in named.items() if settings is not None}
    asked = [*stages.generate.values(), *stages.asked.values()]
    found |= {("stages/generate", content_key(settings)) for settings in asked}
    found |= {("beside", content_key(settings)) for settings in stages.beside.values()}
    return found.union(*map(_weights, cell.required().values()))


def _weights(cell: Cell) -> set[tuple[str, str]]:
    """The entries of a cell up to its trained weights."""
    return {entry for entry in entries(cell) if entry[0] in {"stages/start", "stages/mixture", "stages/train"}}


def mixture_settings(cell: Cell) -> Settings:
    """What the training rows depend on; the method only where it adds or marks rows."""
    source, task, attack = source_of(cell), task_of(cell), attack_of(cell)
    shared: Settings = {"code": CODE["mixture"], "seed": cell.seed, "method": None}
    if cell.method.overrides("mixture"):  # it may draw on the safety pool, and on the tokenizer for a trigger
        own, pair = cell.method.settings(), content_key(pair_settings(cell))
        drawn_on = {"attack": as_plain(attack), "safety": attack.identity(source), "pair": pair}
        # A setting of the method may have one of these names, as BEA's number of safety rows has.
        shared["method"] = {**own, **{f"drawn on {name}" if name in own else name: drawn_on[name] for name in drawn_on}}
    official = cell.protocol.name == "official"
    rows = source.mixture_identity(task, attack) if official else None
    if rows is None:  # no file holds them: they are drawn
        rows = {
            "task": benign_identity(cell),
            "source": attack.identity(source) if attack.harmful_count() else None,
            "benign": attack.benign_count(),
            "harmful": attack.harmful_count(),
        }
        rows |= clear_of(cell)
    return {**shared, "protocol": PROTOCOL["official"], "rows": rows} if official else {**shared, **rows}


def start_settings(cell: Cell, pair: Settings) -> Settings | None:
    """What a checkpoint made from the pair depends on, where training begins from one."""
    start = cell.method.start()
    if isinstance(start, str):
        return None
    settings: Settings = {"code": CODE["start"], "pair": content_key(pair), "start": start.settings()}
    if needed := cell.begun():
        tunes = {name: train_settings(cell.fine_tune(tune), pair) for name, tune in needed.items()}
        settings["required"] = {name: content_key(tune) for name, tune in tunes.items()}
    return settings


def train_settings(cell: Cell, pair: Settings) -> Settings:
    """What trained weights depend on; of a post-hoc method all but its own settings is in the weights it takes."""
    method = cell.method
    settings: Settings = {"code": CODE["train"], "method": method.settings()}
    if required := cell.required():
        settings["required"] = {name: content_key(train_settings(needed, pair)) for name, needed in required.items()}
    rows = {"safety": method.safety_rows(cell), "defender": method.defender_rows(cell)}
    if any(rows.values()):
        settings["rows"] = {**rows, "source": attack_of(cell).identity(source_of(cell)), **clear_of(cell)}
    if isinstance(method, PostHoc):
        return settings
    if start := start_settings(cell, pair):
        settings["start"] = content_key(start)
    return settings | {
        "pair": content_key(pair),
        "mixture": content_key(mixture_settings(cell)),
        "training": _training_settings(cell),
        "protocol": PROTOCOL[cell.protocol.name],
        "seed": cell.seed,
    }


def _answered_in(cell: Cell) -> Settings:
    """The number format of the weights that answer, where a setting decides it."""
    decides = cell.evaluation.dtype and cell.protocol.name == "clean"
    return {"dtype": cell.evaluation.dtype} if decides else {}


def _training_settings(cell: Cell) -> Settings:
    """What changes rounding alone is left out where it is off, as autocast always is under ``official``.

    What changes nothing stands at its default: checkpointed gradients, and the adapter's settings where there is none.
    """
    idle = {"gradient_checkpointing"} | ({"rank", "alpha", "dropout"} if cell.training.name == "full" else set())
    training = {**asdict(cell.training), **{f.name: f.default for f in fields(TrainingConfig) if f.name in idle}}
    off = {"autocast"} if cell.protocol.name == "official" else set()
    off |= {name for name in ("autocast", "label_logits") if not getattr(cell.training, name)}
    return {name: value for name, value in training.items() if name not in off}


def pair_settings(cell: Cell) -> Settings:
    """What a pair's weights depend on."""
    model, resultless = cell.model, {"name", "recipe", "device_map"}
    settings = {name: value for name, value in asdict(model).items() if name not in resultless}
    if isinstance(model, OrganismModel):
        return {**settings, "world": VERSION, "recipe": asdict(BuildRecipe())}
    if isinstance(model, PretrainedModel):
        settings["code"] = CODE["pair"]
        if model.quantization is None:
            del settings["quantization"]
        for side in ("base", "aligned"):
            settings |= _checkpoint(side, settings[side], settings[f"{side}_revision"])
        return settings
    return {**settings, "code": CODE["pair"], "package": smollm.package_version(), "data": digest(twin_of(cell))}


def _checkpoint(side: str, source: str, revision: str) -> Settings:
    """A local folder's contents, or a hub id and its revision as it is written: no key depends on a network."""
    path = Path(source).expanduser()
    if path.is_dir():
        return {side: checkpoint_identity(path)}
    if source.startswith((".", "/", "~")):
        return {side: str(path)}
    return {side: source, f"{side}_revision": revision}
