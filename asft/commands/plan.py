"""``asft plan``: what an experiment will take, before it is launched."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator

from asft.cells.cell import Cell
from asft.cells.checks import nearest
from asft.cells.compose import enumerate_all
from asft.cells.job import Job
from asft.commands.flags import SweepFlags, number, whole
from asft.commands.progress import duration
from asft.commands.run import distinct
from asft.console import results
from asft.planning.size import Shape, device_memory, disk_bytes, downloads, model_shape, training_flops
from asft.planning.trainings import Trainings, learned, longest, seconds_left, trainings
from asft.store.entries import content_key

_GIB = 2**30


def plan(arguments: list[str]) -> int:
    """Prints cells, distinct trainings, memory, time, downloads and disk of a command line's sweep."""
    flags = SweepFlags("plan")
    flags.add_argument("--gpus", type=_counts, default=[], metavar="N,N", help="and on so many GPUs")
    flags.add_argument(
        "--tflops", type=number(0.001), help="what one GPU does in training, for fine-tunes of unknown time"
    )
    options, overrides = flags.split(arguments)
    sweep = enumerate_all(overrides)
    terminal = results()
    by_pair: dict[tuple[str, str], list[Job]] = {}
    for job in distinct(sweep.cells).values():
        # Times are learned of one kind of training: a full fine-tune is not priced as a LoRA.
        by_pair.setdefault((content_key(job.plan.pair), job.cell.training.name), []).append(job)
    for index, jobs in enumerate(by_pair.values()):
        if index:
            terminal.print()
        for what, found in _lines(jobs, options):
            terminal.print(f"{what:<11}{found}", soft_wrap=True)  # one line each, so that a pipe keeps them whole
    return 0


def _lines(jobs: list[Job], options: Namespace) -> Iterator[tuple[str, str]]:
    """The plan of all cells of one model pair, and of them on so many GPUs."""
    first, outputs, cells = jobs[0], jobs[0].options.outputs, [job.cell for job in jobs]
    shape, needed = model_shape(first), trainings(jobs)
    left = [job for job in jobs if job.find() is None]
    fine_tunes = [needed.distinct[key] for key in sorted(needed.missing)]
    known, finished = learned((left or jobs)[0])
    ahead = seconds_left(fine_tunes, [job.cell for job in left], known)
    size = f"{shape.parameters / 1e6:,.1f} M parameters a side" if shape else "its size is not known until it is here"
    kind = "" if first.cell.training.name == "lora" else f"; training={first.cell.training.name}"
    guessed = "" if shape is None or shape.exact else " (an estimate)"
    yield "model", f"{first.cell.model.name}, {size}{guessed}{kind}"
    yield "cells", f"{len(cells)} distinct, {len(cells) - len(left)} finished"
    yield "trainings", _trainings_words(needed)
    if shape is not None:
        peak = max((device_memory(cell, shape) for cell in cells), key=lambda memory: memory.peak)
        parts = f"train {peak.train / _GIB:.1f}, generate {peak.generate / _GIB:.1f}, judge {peak.judge / _GIB:.1f}"
        yield "memory", f"about {peak.peak / _GIB:.1f} GiB a device at most ({parts})"
    yield "time", (_time_words(ahead, finished) if left else "nothing left to do")
    for item in downloads(cells):
        size = f"about {item.size / _GIB:.1f} GiB, by its name" if item.size else "size unknown"
        yield "download", f"{item.source} for {item.purpose}, {size}"
    written = disk_bytes(fine_tunes, [job.cell for job in left], shape) if shape else None
    wanted = "what is written" if written is None else f"at most {written / _GIB:.2f} GiB" if left else "nothing more"
    yield "disk", f"{wanted} below {outputs}; {shutil.disk_usage(nearest(outputs)).free / _GIB:.0f} GiB free"
    if options.gpus:
        total = None if None in ahead.values() else sum(filter(None, ahead.values()))
        yield from _on_gpus(options, cells, fine_tunes, shape, total, longest(left, known))


def _counts(text: str) -> list[float]:
    return [whole()(count) for count in text.split(",")]


def _on_gpus(
    options: Namespace,
    cells: list[Cell],
    tunes: list[Cell],
    shape: Shape | None,
    total: float | None,
    most: float | None,
) -> Iterator[tuple[str, str]]:
    """What a sharded training takes of each GPU, and the sweep with one cell a GPU: ``most`` seconds the longest."""
    for count in options.gpus:
        said = []
        if shape is not None:
            memory = max(device_memory(cell, shape, count).train for cell in cells)
            said.append(f"a training sharded over them (FSDP2) takes about {memory / _GIB:.1f} GiB of each")
        if total is not None and most is not None:
            bound = "the longest cell" if most > total / count else "how much there is to do"
            said.append(f"a cell on each, the sweep takes about {duration(max(most, total / count))}, bound by {bound}")
        elif options.tflops and shape is not None and tunes:
            seconds = sum(training_flops(cell, shape) for cell in tunes) / (options.tflops * 1e12)
            took = f"about {duration(seconds / count)} at {options.tflops:g} TFLOP/s each"
            said.append(f"{len(tunes)} fine-tunes take {took}")
        else:
            said.append("the time is not known yet; --tflops says what a GPU does")
        yield f"{count} GPU{'s' * (count > 1)}", "; ".join(said)


def _trainings_words(needed: Trainings) -> str:
    methods = Counter(cell.method.name for cell in needed.distinct.values())
    listed = ", ".join(f"{count} {name}" for name, count in methods.items())
    return (
        f"{len(needed.distinct)} distinct ({listed or 'none'}); {needed.saved} saved by sharing; "
        f"{len(needed.missing)} still to do"
    )


def _time_words(parts: dict[str, float | None], finished: int) -> str:
    """The sum of what is left, one after another, or that nothing is known of it yet."""
    told = {name: seconds for name, seconds in parts.items() if seconds is not None}
    if not told:
        return "not known yet; once a cell of this model is finished, it is"
    listed = ", ".join(f"{name} {duration(told[name]) if name in told else 'not known yet'}" for name in parts)
    how = f"as {finished} finished cells of this model took"
    return f"about {duration(sum(told.values()))} one after another ({listed}; {how})"
