"""How long the dashboard takes with many cells: writing the site, and opening its overview.

    python scripts/bench_dashboard.py [cells=2000] [answers=250] [folder=FOLDER]

Fails above the limits that the project sets itself: 60 s for the build, 2 s for the overview.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from screenshots import browser
from synthetic_store import write_cell

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.dashboard import Site
from asft.dashboard.tables import enumerate_experiment
from asft.store.entries import Store

BUILD_LIMIT, OPEN_LIMIT = 60.0, 2.0
METHODS = "sft,asft,l2,safeinstr,lisa_base,lisa_aligned,bea,asft_random"


def make_jobs(outputs: Path, count: int) -> list[Job]:
    """Cells of eight methods over as many seeds as it takes; the first seed's are those of ``experiment=demo``."""
    overrides = [f"outputs={outputs}", f"method={METHODS}", "attack.p=0.1"]
    jobs = enumerate_cells(overrides, sweep=True).cells
    chosen = [(jobs[i % len(jobs)], i // len(jobs)) for i in range(count)]
    return [job.of(replace(job.cell, seed=seed)) for job, seed in chosen]


def opening_seconds(index: Path) -> float:
    """From the address to a drawn overview, in a browser that has just started."""
    with browser() as started:
        page = started.new_page()
        page.goto("about:blank")
        begun = time.perf_counter()
        page.goto(index.as_uri())
        page.wait_for_selector("main[data-ready]")
        return time.perf_counter() - begun


def main(arguments: list[str]) -> int:
    """Measures once and prints both times."""
    options = dict(argument.split("=", 1) for argument in arguments)
    count, answers = int(options.get("cells", "2000")), int(options.get("answers", "250"))
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(options.get("folder", scratch)))
        for job in make_jobs(store.root, count):
            write_cell(job, answers // 2, answers - answers // 2)
        begun, worked = time.perf_counter(), time.process_time()
        experiments = [enumerate_experiment(name, [f"outputs={store.root}"]) for name in ("demo", "table2")]
        site = Site(store, experiments, store.root / "dashboard")
        counts = site.build()
        built, worked = time.perf_counter() - begun, time.process_time() - worked
        opened = opening_seconds(site.index)
    print(f"{counts.cells} cells, {counts.answers} answers: built in {built:.1f} s ({worked:.1f} s of CPU time),")
    print(f"overview opens in {opened:.2f} s")
    return int(built > BUILD_LIMIT or opened > OPEN_LIMIT)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
