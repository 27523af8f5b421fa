"""``asft run``: one cell, or a sweep through Hydra's multirun with any launcher."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig
from rich.markup import escape

from asft.compose import CONFIG_NAME, SweepCell, config_dir, enumerate_cells, overrides_of, plain
from asft.config import CellConfig, build_cell
from asft.console import console, quiet_libraries
from asft.keys import plan
from asft.store import Store

log = logging.getLogger("asft.run")
_MULTIRUN = {"-m", "--multirun"}


def run(arguments: list[str]) -> int:
    """Checks every cell, launches Hydra, and says at the end which cells failed.

    Returns:
        0, or 1 when a cell failed.
    """
    if _informational(arguments):
        _launch(arguments)
        return 0
    sweep = bool(_MULTIRUN & set(arguments))
    cells = distinct(enumerate_cells(overrides_of(arguments), sweep=sweep).cells)
    finished = sum(_finished(key, item) for key, item in cells.items())
    if sweep:
        console.print(f"{len(cells)} cells, {finished} finished already")
    if finished < len(cells):
        for key, item in cells.items():
            Store(item.cell.outputs).clear_failure(key)
        _launch(arguments)
    return _summary(cells) if sweep else int(not all(_finished(key, item) for key, item in cells.items()))


def _launch(arguments: list[str]) -> None:
    """Hands the command line to Hydra as the user typed it."""
    sys.argv = ["asft run", *arguments]
    if "COMP_LINE" in os.environ:  # Hydra's completion expects the overrides right after the program's name
        os.environ["COMP_LINE"] = os.environ["COMP_LINE"].replace(" run ", " ", 1)
    _main()


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=CONFIG_NAME)
def _main(config: DictConfig) -> None:
    """One Hydra job: runs a cell; a failure is recorded and told, and does not stop the sweep."""
    cell = build_cell(plain(config))
    key, store = plan(cell).key, Store(cell.outputs)
    started = time.monotonic()
    reused = store.find("cells", key) is not None
    try:
        from asft.pipeline import run_cell  # torch and transformers load only where something is to be done

        quiet_libraries()
        metrics = run_cell(cell).result["metrics"]
    except Exception as error:
        message = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        store.record_failure(key, message, cell.plain())
        log.error("%s  failed: %s", describe(cell), message)
        log.debug("traceback", exc_info=True)
        return
    seconds = "done before" if reused else f"{time.monotonic() - started:.0f} s"
    log.info("%s  HS %5.1f  FA %5.1f  (%s)", describe(cell), metrics["hs"], metrics["fa"], seconds)


def describe(cell: CellConfig) -> str:
    """A cell in one short line: method, model, task, and what is attacked how."""
    attack = cell.attack
    poison = f"{attack.source} p={attack.p:g} n={attack.n}" if cell.method.trains else "not fine-tuned"
    return f"{cell.method.name:<10} {cell.model.name} {cell.dataset.name} {poison} seed={cell.seed}"


def distinct(cells: Sequence[SweepCell]) -> dict[str, SweepCell]:
    """Cells by key: a control that does not depend on an axis is one cell, not one per value."""
    found: dict[str, SweepCell] = {}
    for item in cells:
        found.setdefault(plan(item.cell).key, item)
    return found


def _finished(key: str, item: SweepCell) -> bool:
    return Store(item.cell.outputs).find("cells", key) is not None


def _summary(cells: dict[str, SweepCell]) -> int:
    """Lists what did not finish."""
    missing = {key: item for key, item in cells.items() if not _finished(key, item)}
    if not missing:
        return 0
    console.print(f"[bold red]{len(missing)} of {len(cells)} cells failed[/]")
    for key, item in missing.items():
        reason = Store(item.cell.outputs).failure(key) or "was not reached"
        console.print(f"  {escape(describe(item.cell))}: {escape(reason)}", soft_wrap=True)
    return 1


def _informational(arguments: Sequence[str]) -> bool:
    """Whether Hydra is asked about a configuration and not to run it."""
    flags = (
        "--cfg",
        "-c",
        "--help",
        "-h",
        "--hydra-help",
        "--info",
        "-i",
        "--shell-completion",
        "-sc",
        "--version",
    )
    return any(argument.split("=")[0] in flags for argument in arguments)
