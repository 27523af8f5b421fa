"""``asft track``: shows an experiment's finished cells to a tracker, whenever they were run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from asft.cells.compose import enumerate_all, enumerate_cells
from asft.cells.job import Job
from asft.commands.flags import SweepFlags
from asft.commands.run import describe, distinct
from asft.commands.wandb_pages import PAGES, check_pages, save_pages
from asft.config import ConfigError, ExperimentConfig
from asft.console import console, results
from asft.pipeline.tracked import tracked_cell


def track(arguments: list[str]) -> int:
    """Tracks every finished cell; W&B unless ``tracker=`` says otherwise. Tracking a cell again changes nothing.

    ``--workspace`` and ``--report`` then save W&B's pages of the experiment. Returns 1 when a cell could not be tracked
    or a page not be saved, else 0; ConfigError for ``tracker=none`` and where no cell is finished.
    """
    flags = SweepFlags("track", needed=True)
    for page in PAGES:
        text = f"save W&B's {page} of the experiment (tracker.mode=online)"
        flags.add_argument(f"--{page}", dest="pages", action="append_const", const=page, help=text)
    options, overrides = flags.split(arguments)
    pages: list[str] = options.pages or []
    words = with_tracker(overrides)
    # W&B's pages are of one experiment.
    sweep = enumerate_cells(words, sweep=True) if pages else enumerate_all(words)
    cells = distinct(sweep.cells)
    stands: dict[str, dict[str, ExperimentConfig | None]] = {}
    for job in sweep.cells:
        stands.setdefault(job.key, {})[job.experiment.name if job.experiment else ""] = job.experiment
    first = next(iter(cells.values()))
    if first.tracker.name == "none":
        raise ConfigError("tracker=none: shows nothing anywhere; choose tracker=wandb or tracker=tensorboard")
    if pages:
        check_pages(first.tracker)
    store, tracked, failed = first.store, 0, 0
    for item in cells.values():
        entry = item.find()
        if entry is None:
            continue
        try:
            for experiment in stands[item.key].values():  # each leaves its tag
                item.tracker.track(tracked_cell(entry, replace(item, experiment=experiment)))
            tracked += 1
        except Exception as error:  # third-party code, and often a network: the other cells are still to be sent
            failed += 1
            console.print(f"{describe(item)}: {error}", soft_wrap=True)
    if not tracked + failed:
        raise ConfigError(f"none of these {len(cells)} cells is finished in {store.root}; first launch `asft run`")
    terminal = results()
    missing = len(cells) - tracked - failed
    folder = store.root / first.tracker.name
    terminal.print(f"{tracked} cells tracked, {failed} failed, {missing} not finished: {folder}", soft_wrap=True)
    saved = not pages or _save_pages(list(cells.values()), pages, folder / "pages", terminal)
    return int(failed > 0 or not saved)


def _save_pages(cells: list[Job], pages: list[str], folder: Path, terminal: Console) -> bool:
    """Saves the pages and names their addresses; where that fails it is told, and False."""
    try:
        for address in save_pages(cells, of=pages, folder=folder):
            terminal.print(f"Page: {address}", soft_wrap=True)
    except ConfigError:
        raise
    except Exception as error:  # third-party code and a network, as for the cells
        console.print(f"The pages could not be saved: {error}", soft_wrap=True)
        return False
    return True


def with_tracker(overrides: list[str]) -> list[str]:
    """The overrides with W&B as the tracker where they name none."""
    named = any(text.startswith("tracker=") for text in overrides)
    return overrides if named else ["tracker=wandb", *overrides]
