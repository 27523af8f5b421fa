"""``asft align``: makes a model pair ready before a sweep, and says where it is."""

from __future__ import annotations

from asft.cells.compose import enumerate_cells
from asft.commands.flags import Flags
from asft.commands.progress import PairProgress
from asft.console import console, quiet_libraries, show_log
from asft.store.entries import content_key


def align(arguments: list[str]) -> int:
    """Copies, builds, safety-tunes or downloads the pair of ``model=…``; does nothing where that was done before."""
    flags = Flags("align", "model=NAME …")
    flags.add_argument(
        "--build",
        action="store_true",
        help="where the store has no such pair yet: train it, even if the package has it",
    )
    options, overrides = flags.split(arguments)
    job = enumerate_cells(overrides, sweep=False).cells[0]
    from asft.pipeline.prepare import prepare_pair  # loads torch

    quiet_libraries()
    show_log()
    # Taken as a cell is, so that `asft store gc` takes no pair away; not as this job's cell, which may be at work.
    with PairProgress({job.key: job}), job.store.claim(content_key(job.plan.pair), wait=True):
        pair = prepare_pair(job, build=options.build)
    console.print(f"base     {pair.base}\naligned  {pair.aligned}", soft_wrap=True)
    return 0
