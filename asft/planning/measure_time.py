"""Wall time of measures: from finished ones of the same kind and model, else from the rates of answers and training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields
from statistics import median
from typing import Any

from asft.cells.cell import CellConfig
from asft.measures.base import Measure
from asft.measures.cosine import Cosine
from asft.planning.hours import Measured, Rate, finished, same_model
from asft.planning.shape import Shape
from asft.store.entries import Store

# Of one random update of one module (asft/measures/cosine.py): its own overhead, and seconds per Gaussian, which a CPU
# core draws whatever the device.
_MODULE, _GAUSSIAN = 1e-4, 1e-8
_FLOP = 4  # of a parameter and token in training: with it a training rate tells FLOP/s
_DOUBLE = 10  # how much slower double precision is

# Seconds per unit of Measure.work of finished measures, by the measure's class.
WorkSeconds = Mapping[type[Measure], list[float]]


def measured_work(cells: Iterable[CellConfig]) -> WorkSeconds:
    """What finished measures took that are of the kinds of these cells, which are all of one model.

    A stored configuration names a class, which may have been imported from anywhere: only the cells' own are built.
    """
    kinds = {cell.measure.settings()["class"]: (type(cell.measure), cell) for cell in cells if cell.measure}
    found: dict[type[Measure], list[float]] = defaultdict(list)
    stores = {cell.outputs for _, cell in kinds.values()}
    for entry, config in (item for root in stores for item in finished(Store(root), "measures")):
        if config["measure"]["class"] not in kinds:
            continue
        kind, cell = kinds[config["measure"]["class"]]
        work = _made(kind, config["measure"]).work(config["evaluation"]["harmful_max_new_tokens"])
        if work and same_model(config, cell):
            found[kind].append(entry.seconds / work)
    return found


def measure_seconds(cell: CellConfig, done: WorkSeconds, known: Measured, rate: Rate, shape: Shape) -> float:
    """One measure beside its fine-tunes: its work at the seconds of finished ones of its kind.

    Without such, answers count at the seconds of finished cells' answers, else at the rate, and verdicts where they
    were measured; a cosine's draws by the size of their products. Another measure that asks nothing counts as 0.
    """
    measure = cell.measure
    assert measure is not None, "only cells with a measure come here"
    tokens = cell.evaluation.harmful_max_new_tokens
    work = measure.work(tokens)
    if like := done.get(type(measure)):
        return work * median(like)
    if measure.asks:
        each = [value for values in known.answers.values() for value in values]
        verdict = median(known.judge.get(cell.judge.name, [0.0])) / cell.evaluation.n_harmful
        return work * (median(each) if each else 1 / rate.answer) + work / tokens * verdict
    return work * _draw_seconds(cell.training.rank, rate, shape) if isinstance(measure, Cosine) else 0.0


def _draw_seconds(rank: int, rate: Rate, shape: Shape) -> float:
    """A random update BA: r·(o + i) Gaussians, and the product BᵀV of 2·r·o·i operations, over the modules."""
    products = 2 * rank * sum(outputs * inputs for outputs, inputs in shape.adapted)
    per_second = rate.train * shape.parameters * _FLOP / _DOUBLE
    return len(shape.adapted) * _MODULE + shape.lora_parameters(rank) * _GAUSSIAN + products / per_second


def _made(kind: type[Measure], settings: Mapping[str, Any]) -> Measure:
    return kind(**{field.name: settings[field.name] for field in fields(kind)})
