"""Safe LoRA: project the LoRA updates that point away from the alignment direction (arXiv:2405.16833).

Per module, with V = W_aligned − W_base and Ĉ = VVᵀ/‖V‖ (never formed):

    M = Ĉ B = V(VᵀB)/‖V‖            the projected B
    c = cos(vec(MA), vec(BA)) = tr(MᵀB·AAᵀ) / √[tr(MᵀM·AAᵀ) · tr(BᵀB·AAᵀ)],  rounded to 5 decimals

``threshold`` mode projects modules with c ≤ τ; ``number`` mode takes for τ the K-th smallest c, so that ties
project more than K modules, as in the authors' code. A is never changed. Where nothing is said K is 10, the authors'
default, or all modules of a smaller adapter.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, SupportsFloat, SupportsIndex, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from asft.anchor.binding import TURNED, lora_factors, unwrap
from asft.anchor.difference import CheckpointPair
from asft.anchor.names import is_target, stem
from asft.anchor.saved_adapter import PICKLED_NAME, WEIGHTS_NAME, read_adapter

logger = logging.getLogger(__name__)

Mode = Literal["number", "threshold"]
NUMBER, THRESHOLD = 10, 0.5  # the authors' defaults
DECIMALS = 5
REPORT_NAME = "safe_lora.json"
TEMPLATES_NAME = "additional_chat_templates"  # where transformers keeps a tokenizer's further templates


@dataclass(frozen=True, slots=True)
class ProjectedModule:
    """What Safe LoRA did to one module: c, whether B was replaced by ĈB, and ‖BA‖ before and after.

    c is rounded to 5 decimals; 0 where ĈB is zero, and None where there is no direction to compare, since the update
    BA is zero or the weight the same on both sides (V = 0): such a module is never selected and does not count among
    the K smallest.
    """

    name: str
    cosine: float | None
    projected: bool
    norm_before: float
    norm_after: float


@dataclass(frozen=True, slots=True)
class SafeLoraReport:
    """What Safe LoRA did to an adapter, module by module.

    ``threshold`` is the cosine at or below which modules were selected: τ, or the K-th smallest c; None if no module
    had an update to select.
    """

    mode: Mode
    threshold: float | None
    modules: tuple[ProjectedModule, ...]

    @property
    def projected(self) -> tuple[str, ...]:
        """Names of the modules that were projected."""
        return tuple(module.name for module in self.modules if module.projected)

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-ready values."""
        return asdict(self)


class Update(NamedTuple):
    """One module's LoRA factors: A (r×i) and B (o×r)."""

    a: Tensor
    b: Tensor


class _Candidate(NamedTuple):
    projected_b: Tensor
    cosine: float | None
    norm_before: float
    norm_after: float


def safe_lora(
    model: nn.Module,
    base: str | Path,
    aligned: str | Path,
    *,
    mode: Mode | None = None,
    number: int | None = None,
    threshold: float | None = None,
    targets: Sequence[str] | None = None,
) -> SafeLoraReport:
    """Project the active LoRA adapter of ``model`` in place.

    Args:
        model: a PEFT model with plain LoRA.
        base, aligned: checkpoints before and after alignment (directories of safetensors, or one file each).
        mode: ``number`` or ``threshold``; by default the one of the two that is given.
        number, threshold: K and τ of the two modes; an error in the other.
        targets: look only at modules of these names or trailing parts of names; by default at all of the adapter.

    Raises:
        ValueError: both number and threshold, or the one that mode does not read, K above the number of modules,
            unequal shapes, or an adapter that is not supported or changes more than its projection could undo.
    """
    factors = {factor.name: factor for factor in lora_factors(model)}
    for config in getattr(unwrap(model), "peft_config", {}).values():
        _check_bias(config.bias, (name for name, _ in model.named_parameters()), "The model's adapter")
    updates = {name: Update(factor.a.detach(), factor.b.detach()) for name, factor in factors.items()}
    chosen, turned = _chosen(updates, targets), [name for name, factor in factors.items() if factor.turned]
    projected, report = project(chosen, base, aligned, mode=mode, number=number, threshold=threshold, turned=turned)
    with torch.no_grad():
        for name, b in projected.items():
            factors[name].b.copy_(b)
    return report


def project_adapter(
    adapter: str | Path,
    base: str | Path,
    aligned: str | Path,
    out: str | Path,
    *,
    mode: Mode | None = None,
    number: int | None = None,
    threshold: float | None = None,
    targets: Sequence[str] | None = None,
) -> SafeLoraReport:
    """Write a projected copy of ``adapter`` to ``out``, with ``safe_lora.json`` beside it.

    All other tensors, settings and files (tokenizer, chat template, model card) are kept, and B keeps its stored
    type, so whatever reads the adapter reads the result alike. ``out`` is complete or absent.

    Args:
        adapter: directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
        out: a directory that does not exist yet or is empty.
        base, aligned, mode, number, threshold, targets: see :func:`safe_lora`.

    Raises:
        ValueError: ``out`` in use, or as :func:`asft.anchor.saved_adapter.read_adapter` and :func:`safe_lora`.
    """
    target = Path(out).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"out={str(out)!r} exists and is not an empty directory: give a new one.")
    saved = read_adapter(adapter)
    _check_bias(saved.config.get("bias"), saved.tensors, f"adapter={str(adapter)!r}")
    tensors = dict(saved.tensors)
    updates = {name: Update(tensors[keys.a], tensors[keys.b]) for name, keys in saved.keys.items()}
    chosen, turned = _chosen(updates, targets), updates if saved.config.get("fan_in_fan_out") else ()
    projected, report = project(chosen, base, aligned, mode=mode, number=number, threshold=threshold, turned=turned)
    for name, b in projected.items():
        key = saved.keys[name].b
        tensors[key] = b.to(tensors[key].dtype).contiguous()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        _copy_files(saved.path, partial)
        save_file(tensors, partial / WEIGHTS_NAME, metadata=saved.metadata)
        (partial / REPORT_NAME).write_text(json.dumps(report.to_dict(), indent=1))
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _copy_files(source: Path, target: Path) -> None:
    """All that lies beside the adapter's weights. Other folders stay behind: other adapters and trainer checkpoints,
    which nothing was projected in; and so do the same weights pickled."""
    for file in source.iterdir():
        if file.is_file() and file.name not in (WEIGHTS_NAME, PICKLED_NAME):
            shutil.copyfile(file, target / file.name)
        elif file.name == TEMPLATES_NAME:
            shutil.copytree(file, target / file.name)


def _check_bias(bias: str | None, names: Iterable[str], where: str) -> None:
    if bias not in (None, "none") and any(name.endswith(".bias") for name in names):
        raise ValueError(
            f"{where} has bias={bias!r}: it trains biases of the base model, which no projection undoes; only "
            "bias='none' is supported."
        )


def _chosen(updates: Mapping[str, Update], targets: Sequence[str] | None) -> dict[str, Update]:
    """The updates of the target modules."""
    if targets is None:
        return dict(updates)
    unmatched = [target for target in targets if not any(is_target(name, [target]) for name in updates)]
    if unmatched or not targets or isinstance(targets, str):
        available = ", ".join(sorted({name.rpartition(".")[2] for name in updates}))
        raise ValueError(f"targets={targets!r}: give a list of adapted modules; available: {available}.")
    return {name: update for name, update in updates.items() if is_target(name, targets)}


def project(
    updates: Mapping[str, Update],
    base: str | Path,
    aligned: str | Path,
    *,
    mode: Mode | None = None,
    number: int | None = None,
    threshold: float | None = None,
    turned: Collection[str] = (),
) -> tuple[dict[str, Tensor], SafeLoraReport]:
    """The new B of every selected module, and the report; inputs are left as they are. See :func:`safe_lora`.

    ``turned`` are modules that the adapter knows as i×o (Conv1D).
    """
    mode, number, threshold = selection(mode, number, threshold, len(updates))
    candidates = dict(_candidates(updates, base, aligned, turned))
    cosines = sorted(c.cosine for c in candidates.values() if c.cosine is not None)
    kth = cosines[min(number, len(cosines)) - 1] if cosines else None
    cut = threshold if mode == "threshold" else kth
    chosen = {name for name, c in candidates.items() if cut is not None and c.cosine is not None and c.cosine <= cut}
    after = {name: c.norm_after if name in chosen else c.norm_before for name, c in candidates.items()}
    modules = tuple(
        ProjectedModule(name, c.cosine, name in chosen, c.norm_before, after[name]) for name, c in candidates.items()
    )
    return {name: candidates[name].projected_b for name in chosen}, SafeLoraReport(mode, cut, modules)


def selection(mode: Mode | None, number: int | None, threshold: float | None, modules: int) -> tuple[Mode, int, float]:
    """What is asked for among ``modules`` modules, defaults put in; ValueError where it cannot be had."""
    if number is not None and threshold is not None:
        raise ValueError(f"number={number} and threshold={threshold} are two ways to select modules: give one.")
    if mode is None:
        mode = "number" if threshold is None else "threshold"
    if mode not in get_args(Mode):
        raise ValueError(f"mode={mode!r} is unknown; allowed: {', '.join(get_args(Mode))}.")
    idle = {"number": "threshold", "threshold": "number"}[mode]
    if (given := {"number": number, "threshold": threshold}[idle]) is not None:
        raise ValueError(f"{idle}={given!r} has no effect on mode={mode!r}; use mode={idle!r}.")
    if number is not None and not isinstance(number, SupportsIndex):
        raise ValueError(f"number={number!r} must be a whole number: it counts modules.")
    if threshold is not None and not isinstance(threshold, SupportsFloat):
        raise ValueError(f"threshold={threshold!r} must be a number: it is compared with a cosine.")
    number = min(NUMBER, modules) if number is None else number
    threshold = THRESHOLD if threshold is None else threshold
    if mode == "number" and not 1 <= number <= modules:
        raise ValueError(
            f"number={number} must lie between 1 and {modules}, the number of adapted modules (of a cell: "
            "method.number, by default model.recipe.safe_lora_modules)."
        )
    if mode == "threshold" and not -1 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie between -1 and 1: it is compared with a cosine.")
    return mode, number, threshold


def _candidates(
    updates: Mapping[str, Update], base: str | Path, aligned: str | Path, turned: Collection[str]
) -> Iterator[tuple[str, _Candidate]]:
    pair = CheckpointPair(base, aligned, [stem(name) for name in updates], allow_equal=True)
    names = {stem(name): name for name in pair.modules}
    if pair.equal:
        logger.warning(
            f"{len(pair.equal)} of {len(names)} modules are the same in base and aligned (V = 0), first "
            f"{next(iter(pair.equal))}: they have no alignment direction and keep their updates."
        )
    for name, update in updates.items():
        module = names.get(stem(name)) or _ending_in(name, pair.modules)
        v = pair.difference(module, update.b.device)
        shape = (update.b.shape[0], update.a.shape[1])
        if shape != tuple(v.shape):
            raise ValueError(
                f"Module {name!r}: the adapter's update is {shape[0]}×{shape[1]}, the checkpoints' weight "
                f"{v.shape[0]}×{v.shape[1]}: give the checkpoints that the adapter was trained on."
            )
        if name in turned and pair.modules[module].assumed:
            raise ValueError(f"Module {name!r} {TURNED}.")
        yield name, _candidate(v, update)


def _ending_in(name: str, modules: Iterable[str]) -> str:
    """The module that an adapter of a class within the checkpoints' class (the text part of a pair of VLMs) means."""
    found = [module for module in modules if is_target(module, [stem(name)])]
    if len(found) > 1:
        raise ValueError(
            f"Module {name!r} of the adapter may be any of {found} of the checkpoints: give checkpoints of the class "
            "that the adapter was trained on."
        )
    return found[0]


def _candidate(v: Tensor, update: Update) -> _Candidate:
    b, a = update.b.to(torch.promote_types(v.dtype, update.b.dtype)), update.a.cpu().double()
    v = v.to(b.dtype)
    size = torch.linalg.matrix_norm(v)
    m = v @ (v.mT @ b) / size if size > 0 else b
    k = a @ a.mT
    before, after = (math.sqrt(max(_inner(x, x, k), 0.0)) for x in (b, m))
    if before == 0 or size == 0:
        return _Candidate(m, None, before, after)
    cosine = _inner(m, b, k) / (after * before) if after > 0 else 0.0
    return _Candidate(m, round(cosine, DECIMALS), before, after)


def _inner(x: Tensor, y: Tensor, k: Tensor) -> float:
    """⟨XA, YA⟩ = tr(XᵀY·AAᵀ) in float64."""
    x, y = x.cpu().double(), y.cpu().double()  # MPS has no float64
    return float(((x.mT @ y) * k).sum())
