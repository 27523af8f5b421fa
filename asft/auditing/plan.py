"""What an audit takes, told before any weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from asft.auditing.candidates import CUTS, GAMMAS, GROUPS, KEPT, LAST, SHARES, WEIGHTS
from asft.auditing.exam import half, packaged, packaged_questions, read_prompts, read_task
from asft.door import stored_shapes
from asft.models.checkpoints import holds_adapter
from asft.planning.size import BYTES, generating, local_snapshot, shape_of
from asft.planning.trainings import answering, learned_of
from asft.store.entries import Store

BANDWIDTHS = {"H100": 3.35, "A100 80 GB": 2.04, "RTX 4090": 1.01, "L40S": 0.86}  # TB/s, by the makers' data sheets
_GIB = 2**30
_PLAIN = {"backend": {"name": "hf"}, "jailbreak": {"name": "none"}}  # as an audit asks


def planned(
    tuned: str,
    aligned: str,
    *,
    base: str | None = None,
    prompts: str | None = None,
    task: str | None = None,
    modules: bool | None = None,
    repair: bool = False,
    safe: str | None = None,
    harmful: str | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    dtype: str | None = None,
    device: str = "auto",
    store: Store,
) -> Iterator[tuple[str, str]]:
    """Lines of what is asked, and of tokens, memory and time; see :func:`asft.audit` and :func:`asft.repair`.

    Args:
        store: whose finished cells of the same aligned model say how long a token takes.
    """
    bad = read_prompts(prompts, "--prompts") if prompts else []
    rows, others = read_task(task) if task else [], [len(packaged(name)) for name in ("look_alikes", "ordinary")]
    pools = [len(bad), len(rows), *others]
    adapted = _adapted(local_snapshot(tuned, "main"))
    parts = min(GROUPS, len(adapted or [()] * GROUPS))
    asked = [(2, pools)]
    words = "prompts", "task rows", "look-alikes", "ordinary prompts"
    named = " + ".join(f"{count} {word}" for count, word in zip(pools, words, strict=True) if count)
    general = f", and {len(packaged_questions())} questions each by likelihood"
    yield "audit", f"2 models × ({named}) = {2 * sum(pools):,} answers{general}"
    if modules:
        asked.append((2 * parts, [len(bad)]))
        yield "modules", f"{2 * parts} variants × {len(bad)} prompts = {2 * parts * len(bad):,} answers"
    if repair:
        merging = len(WEIGHTS) * CUTS * bool(safe) + len(GAMMAS) * bool(harmful)
        tried = len(SHARES) + len(LAST) + CUTS * bool(base) + merging
        chosen, held = ([len(half(some, which)) for some in (bad, rows)] for which in ("validation", "test"))
        if modules is not False:
            asked.append((parts, chosen[:1]))
            tried += len(KEPT) * (parts - 1)
        once = [*held, *others]
        asked += [(tried, chosen), (1, once)]
        total = tried * sum(chosen) + sum(once) + parts * chosen[0] * (modules is not False)
        yield "repair", f"at most {tried} variants × ({chosen[0]} prompts + {chosen[1]} task rows): {total:,} answers"
    answers = sum(count * sum(some) for count, some in asked)
    steps = sum(count * math.ceil(size / batch_size) for count, some in asked for size in some) * max_new_tokens
    yield "tokens", f"at most {answers * max_new_tokens:,} ({max_new_tokens} of each answer; most end earlier)"
    shape = shape_of(local_snapshot(aligned, "main"), aligned, ("q_proj", "v_proj"))
    if shape is None:
        yield "memory", f"not known: {aligned} is not here, and its name tells no size"
        return
    size = BYTES[dtype or ("bfloat16" if shape.parameters > 10**9 else "float32")]
    copy = sum(out * into for out, into in adapted or shape.adapted) * size
    peak = generating(shape, size, batch_size, 256 + max_new_tokens) + copy
    guess = "" if shape.exact else ", by the size in its name"
    yield (
        "memory",
        f"about {peak / _GIB:.1f} GiB of {shape.parameters / 1e6:,.0f} M parameters in {size} bytes each{guess}",
    )
    alike = {"model": {"aligned": aligned}, "device": device, "training": {"name": "lora"}, **_PLAIN}
    known, finished = learned_of(store, alike)
    if (seconds := answering(known)) is not None:
        yield (
            "time",
            f"about {seconds * answers * max_new_tokens / 60:.0f} min, as {finished} finished cells of it took",
        )
    floor = steps * shape.parameters * size / 1e12
    told = ", ".join(f"{floor / speed / 60:.0f} min on an {name}" for name, speed in BANDWIDTHS.items())
    yield "at least", f"{told}: a step of a batch reads every weight once"


def _adapted(folder: Path | None) -> list[tuple[int, int]]:
    """Outputs and inputs of each module of an adapter that is here, from its file's header."""
    shapes = stored_shapes(folder) if folder and holds_adapter(folder) else {}
    return [
        (shape[0], shapes[name.replace("lora_B", "lora_A")][1]) for name, shape in shapes.items() if "lora_B" in name
    ]
