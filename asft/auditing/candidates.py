"""The repairs that are tried: variants of a fine-tune, in families from the mildest to the strongest."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from asft.anchor.projection import Update
from asft.anchor.saved_adapter import SavedAdapter, read_adapter
from asft.auditing.exam import Exam, learned, read_task
from asft.auditing.subject import Subject, Variant
from asft.config import TrainingConfig
from asft.data.rows import Row
from asft.methods.adapters import merged
from asft.methods.safe_merge import SafeMerge
from asft.models.checkpoints import holds_adapter
from asft.store.entries import content_key

log = logging.getLogger(__name__)

GROUPS = 16  # of modules that are left out together, at most
SHARES = tuple(step / 20 for step in range(1, 20))  # WiSE-FT's a
LAST = SHARES[:6]  # by which the best is made smaller where none is good enough
KEPT = (0.5, 0.25, 0.0)  # of the updates of modules that carry the damage
CUTS = 8  # values of Safe LoRA's K, at most
WEIGHTS = (SafeMerge.weight, 0.5, 0.8)  # SafeMERGE's w
GAMMAS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # RESTA's γ


def candidates(
    exam: Exam, rows: Sequence[Row], *, modules: bool, safe: str | Path | None, harmful: str | Path | None
) -> Iterator[list[Variant]]:
    """What is tried: WiSE-FT, Safe LoRA, SafeMERGE, RESTA, and modules shrunk or dropped by the damage they carry.

    Args:
        rows: malicious prompts by which that damage is measured.
        modules: whether it is: HS without each group of modules.
        safe, harmful: rows or adapters for SafeMERGE and RESTA.
    """
    subject = exam.subject
    yield [Variant(f"WiSE-FT, a = {a:g}", "WiSE-FT", dict.fromkeys(subject.modules, 1 - a)) for a in SHARES]
    cuts = _cuts(subject)
    new = {name: Update(subject.factors[name].a, b) for name, (b, _) in subject.projected.items()}
    yield [
        Variant(f"Safe LoRA, K = {len(names)} (τ = {cut:g})", "Safe LoRA", factors={name: new[name] for name in names})
        for cut, names in cuts
    ]
    if safe:
        other = defender(exam, safe, "safe")
        for weight in WEIGHTS:
            labels = [f"SafeMERGE, w = {weight:g}, K = {len(names)} (τ = {cut:g})" for cut, names in cuts]
            yield [
                _merged(subject, other, label, names, 1 - weight, weight)
                for label, (_, names) in zip(labels, cuts, strict=True)
            ]
    if harmful:
        other = defender(exam, harmful, "harmful")
        yield [_merged(subject, other, f"RESTA, γ = {gamma:g}", subject.modules, 1.0, -gamma) for gamma in GAMMAS]
    if modules:
        damage = zip(leave_out(exam, rows), groups(subject.modules), strict=True)
        order = [group for _, group in sorted(damage, key=lambda pair: pair[0])]
        for kept in KEPT:
            yield [dropped(order[:count], kept) for count in range(1, len(order))]


def groups(modules: Sequence[str]) -> list[list[str]]:
    """At most :data:`GROUPS` runs of neighbouring modules of like length."""
    count = min(GROUPS, len(modules))
    edges = [round(at * len(modules) / count) for at in range(count + 1)]
    return [list(modules[start:end]) for start, end in pairwise(edges)]


def leave_out(exam: Exam, rows: Sequence[Row]) -> list[float]:
    """HS in % without each group's update."""
    return _each(exam, rows, "without", [dropped([group]) for group in groups(exam.subject.modules)])


def alone(exam: Exam, rows: Sequence[Row]) -> list[float]:
    """HS in % of the aligned model with one group's update alone."""
    parts = groups(exam.subject.modules)
    return _each(exam, rows, "with only", [dropped([other for other in parts if other is not one]) for one in parts])


def _each(exam: Exam, rows: Sequence[Row], how: str, variants: Sequence[Variant]) -> list[float]:
    cost = exam.cost(len(variants) * len(rows))
    log.info("HS %s each group of modules: %d variants, %d answers each, %s", how, len(variants), len(rows), cost)
    found = []
    for variant, group in zip(variants, groups(exam.subject.modules), strict=True):
        found.append(percent(exam.harm(variant, rows)))
        told = " … ".join(group[:1] + group[1:][-1:])
        log.info("%s %s (%d of %d): HS %.1f", how, told, len(found), len(variants), found[-1])
    return found


def dropped(parts: Sequence[Sequence[str]], kept: float = 0.0) -> Variant:
    """The fine-tune with so much of some groups' updates left."""
    names, done = [name for group in parts for name in group], f"shrunk to {kept:g}" if kept else "dropped"
    return Variant(f"{len(names)} modules {done}", f"modules {done}", dict.fromkeys(names, kept))


def percent(flags: Sequence[float]) -> float:
    """100 times the mean."""
    return 100 * sum(flags) / len(flags)


def _cuts(subject: Subject) -> list[tuple[float, list[str]]]:
    """Values of τ with the modules whose cosine is not above: K of them, or more where cosines are equal."""
    cosines = sorted((cosine, name) for name, (_, cosine) in subject.projected.items())
    wanted = {max(1, round(len(cosines) * step / CUTS)) for step in range(1, CUTS + 1)} if cosines else set()
    taken = sorted({cosines[count - 1][0] for count in wanted})
    return [(cut, [name for cosine, name in cosines if cosine <= cut]) for cut in taken]


def _merged(
    subject: Subject, other: SavedAdapter, label: str, chosen: Sequence[str], first: float, second: float
) -> Variant:
    scales = {name: subject.scale(name) for name in subject.modules}
    factors = merged(subject.factors, scales, other, lambda name: (first, second) if name in chosen else (1.0, 0.0))
    new = {name: Update(*pair) for name, pair in factors.items()}
    return Variant(label, label.partition(",")[0], factors=new, chosen=chosen)


def defender(exam: Exam, source: str | Path, kind: str) -> SavedAdapter:
    """An adapter of the aligned model, given as it is, or trained on rows on the modules of the one that is audited.

    Five epochs at a learning rate of 2e-4 in batches of 8; kept beside the answers.
    """
    subject, folder = exam.subject, Path(source).expanduser()
    if not holds_adapter(folder):
        rows = read_task(str(source), f"--{kind}")
        key = {"identity": subject.identity, "rows": [row.id + row.output for row in rows], "dtype": subject.dtype}
        folder = exam.kept / f"{kind}-{content_key(key)}"
        if not holds_adapter(folder):
            log.info("training an adapter on %d rows of %s", len(rows), source)
            _train(exam, rows, folder)
    saved = read_adapter(folder)
    for name, (a, b) in subject.factors.items():
        shapes = [saved.tensors[key].shape for key in saved.keys.get(name, ())]
        if not shapes or (shapes[0][1], shapes[1][0]) != (a.shape[1], b.shape[0]):
            raise ValueError(
                f"--{kind} {folder}: its adapter has no {name} of {b.shape[0]}×{a.shape[1]}, as the audited one has; "
                "give one of the same model and modules, or rows"
            )
    return saved


def _train(exam: Exam, rows: Sequence[Row], folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from asft.training.trainer import train

    subject = exam.subject
    lora = subject.lora
    training = TrainingConfig(name="lora", lr=2e-4, epochs=5, batch_size=8, rank=lora["r"], alpha=lora["lora_alpha"])
    torch.manual_seed(0)
    config = LoraConfig(**lora, target_modules=subject.modules, task_type="CAUSAL_LM")
    model = get_peft_model(subject.write(None), config)
    encoded = [learned(exam.template, row, training.max_length) for row in rows]
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        pad, device = subject.tokenizer.pad_token_id, subject.model.device
        train(model, encoded, training, seed=0, pad_token=pad, device=device, folder=partial / "trainer")
        model.save_pretrained(partial)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        model.unload()
