"""What each training method takes beside SFT: seconds a step, what comes once, peak memory. Prints a Markdown table.

Each method is trained by the pipeline on the embedded pair in a process of its own, SFT right before it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerCallback

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.console import quiet_libraries
from asft.methods.post_hoc import PostHoc
from asft.pipeline.prepare import prepare_pair
from asft.pipeline.run import _Run
from asft.report.writers.markdown import escape, table

FIRST = 5  # steps that are not counted: caches are cold


class Clock(TrainerCallback):
    """Seconds from each step's beginning to its end, the method's own passes included."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(time.perf_counter() - self.began)


class _Timed(_Run):
    """A cell's stages, whose method may act at no step: there are few, and what it takes to look is a cost as well."""

    def refuse_idle(self, what: str) -> None:
        """Nothing: no score comes of it."""


def beside(sft: Job, job: Job, pairs: Path) -> list[str]:
    """The method's line of the table."""
    plain, own = (_measured(each, pairs) for each in (sft, job))
    steps = ["–", "–"]
    if not isinstance(job.cell.method, PostHoc):
        steps = [f"{own[0]:.0f}", f"{own[0] / plain[0]:.2f}"]
    return [escape(job.cell.method.label), *steps, f"{own[1] - plain[1]:+.1f}", f"{own[2] - plain[2]:+.0f}"]


def _measured(job: Job, pairs: Path) -> tuple[float, float, float]:
    """Milliseconds a step (median), seconds of all else in the training stage, and its peak memory in MiB."""
    with TemporaryDirectory() as outputs:
        (Path(outputs) / "pairs").symlink_to(pairs)
        clock = Clock()
        run = _Timed(replace(job, options=replace(job.options, outputs=Path(outputs), checkpoint_every=1e9)))
        kept = run.train_stage([clock]).manifest
        once = kept["seconds"] - sum(clock.steps)
        return 1e3 * statistics.median(clock.steps[FIRST:] or [0.0]), once, kept["peak_memory_mb"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. outputs=FOLDER or method=sbr,asft")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    given = ["experiment=field", f"attack.n={options.rows}", "training.epochs=1", *options.overrides]
    jobs = [job for job in enumerate_cells(given, sweep=True).cells if job.cell.method.trains]
    others = [text for text in given if not text.startswith("method=")]
    sft = enumerate_cells([*others, "method=sft"], sweep=True).cells[0]
    prepare_pair(sft)
    pairs = sft.options.outputs.resolve() / "pairs"
    rows = []
    for job in jobs:
        if job.cell.method == sft.cell.method:
            continue
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            rows.append(pool.submit(beside, sft, job, pairs).result())
        print(*rows[-1], sep=" | ", file=sys.stderr)
    print(
        "Each method's training stage less SFT's right before it in the same process, one thread: milliseconds a step "
        "and their ratio; seconds of all that comes once, and peak memory, as differences. What a method needs of "
        f"other fine-tunes is not in it. {options.rows} rows, one epoch.\n"
    )
    print(table(["method", "ms a step", "× SFT's", "once, s", "peak memory, MiB"], rows))


if __name__ == "__main__":
    main()
