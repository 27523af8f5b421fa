"""``asft run``: one cell, or a sweep through Hydra's multirun with any launcher."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.markup import escape

from asft.cells.build import build_cell
from asft.cells.cell import CellConfig
from asft.cells.checks import ON_THE_WORLD, check_together, on_the_world
from asft.cells.compose import CONFIG_NAME, SweepCell, config_dir, enumerate_cells, one_line, overrides_of, plain
from asft.cells.keys import plan, store_kind
from asft.commands.progress import SweepProgress
from asft.config import ConfigError
from asft.console import console, quiet_libraries
from asft.distributed.team import started_together, team
from asft.store.celllog import cell_log
from asft.store.entries import Entry, Store
from asft.store.errors import MAKE_ROOM, DiskFull, OutOfStep, disk_full
from asft.trackers.base import USUAL, unusual

log = logging.getLogger("asft.run")
_MULTIRUN = {"-m", "--multirun"}
_left_to_others: set[str] = set()  # cells of this process' jobs that another process was working on


def run(arguments: list[str]) -> int:
    """Checks every cell, launches Hydra, and says at the end which cells failed.

    Returns:
        0, or 1 when a cell failed.
    """
    if started_together() == 1:
        return _lead(arguments)
    from asft.distributed.processes import together

    with together() as processes:
        if processes.rank == 0:
            return _lead(arguments)
        quiet_libraries()
        processes.follow()
        return 0


def _lead(arguments: list[str]) -> int:
    if _informational(arguments):
        _launch(arguments)
        return 0
    sweep = bool(_MULTIRUN & set(arguments))
    cells = distinct(enumerate_cells(overrides_of(arguments, flags=None), sweep=sweep).cells)
    open_cells = {key: item for key, item in cells.items() if _finished(key, item) is None}
    if team().size > 1:
        _check_together(arguments, [item.cell for item in open_cells.values()])
    if sweep:
        console.print(f"{len(cells)} cells, {len(cells) - len(open_cells)} finished already")
    for name in sorted({item.cell.model.name for item in open_cells.values() if on_the_world(item.cell)}):
        console.print(f"[yellow]model={name} {ON_THE_WORLD}[/]", soft_wrap=True)
    for key, item in open_cells.items():
        Store(item.cell.outputs).clear_failure(key)
    if open_cells:
        _work(arguments, {key: item.cell for key, item in (cells if sweep else open_cells).items()}, sweep)
        return _summary(open_cells, sweep)
    if not sweep:
        ((key, item),) = cells.items()
        console.print(_line(item.cell, _finished(key, item), "done before"), soft_wrap=True)
    return 0


def _check_together(arguments: list[str], cells: list[CellConfig]) -> None:
    """Refuses what several processes cannot do together.

    Raises:
        ConfigError: naming the key, its value and what to do instead.
    """
    for argument in arguments:
        key, _, launcher = argument.lstrip("+").partition("=")
        if key == "hydra/launcher" and launcher != "basic":
            raise ConfigError(
                f"{key}={launcher}: starts processes of its own, and {team().size} were started already; leave it out, "
                "or start one process"
            )
    for cell in cells:
        check_together(cell)


def _work(arguments: list[str], cells: dict[str, CellConfig], sweep: bool) -> None:
    """Launches the jobs, then sees to the cells that another sweep was working on when their turn came."""
    with SweepProgress(cells) if sweep else nullcontext():
        _launch(arguments)
        for key, cell in cells.items():
            if key in _left_to_others or Store(cell.outputs).working(key):
                _run_cell(key, cell, wait=True)


def _launch(arguments: list[str]) -> None:
    """Hands the command line to Hydra as the user typed it.

    Raises:
        ConfigError: what Hydra or a launcher has to say, in one line.
        DiskFull: when there is no room for a job's folder.
    """
    sys.argv = ["asft run", *arguments]
    if "COMP_LINE" in os.environ:  # Hydra's completion expects the overrides right after the program's name
        os.environ["COMP_LINE"] = os.environ["COMP_LINE"].replace(" run ", " ", 1)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of ending the process
    try:
        _main()
    except HydraException as error:
        raise ConfigError(one_line(error)) from error
    except OSError as error:
        if disk_full(error):
            raise DiskFull(f"{error}. {MAKE_ROOM}") from error
        raise


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=CONFIG_NAME)
def _main(config: DictConfig) -> None:
    """One Hydra job: runs a cell; a failure is recorded and told, and does not stop the sweep."""
    cell = build_cell(plain(config))
    _run_cell(plan(cell).key, cell, wait=HydraConfig.get().mode == RunMode.RUN)


def _run_cell(key: str, cell: CellConfig, *, wait: bool) -> None:
    """Runs a cell unless it is finished or has failed, or without ``wait`` is being worked on by another process."""
    store = Store(cell.outputs)
    if store.find(store_kind(cell), key):  # a control that stands in several columns, or another worker was faster
        return
    if wait and (beat := store.working(key)):
        log.info("%s  waits for %s, which is at work on it", describe(cell), beat.where)
    with store.claim(key, wait=wait) as ours:
        if not ours:
            _left_to_others.add(key)
        elif store.find(store_kind(cell), key) is None and store.failure(key) is None:
            with cell_log(cell.outputs, key):
                _compute(key, cell, store)


def _compute(key: str, cell: CellConfig, store: Store) -> None:
    started = time.monotonic()

    def record(error: Exception) -> None:
        message = str(error) if isinstance(error, ValueError | OutOfStep) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # on a full disk there is no room for the record either
            store.record_failure(key, message, cell.plain(), "".join(traceback.format_exception(error)))
        log.error("%s  failed: %s", describe(cell), message)

    try:
        from asft.pipeline.run import run_cell  # torch and transformers load only where something is to be done

        quiet_libraries()
        with team().recorded(record):
            entry = run_cell(cell)
    except Exception as error:
        record(error)
        if isinstance(error, OutOfStep):
            raise SystemExit(1) from None
        return
    log.info(_line(cell, entry, f"{time.monotonic() - started:.0f} s"))


def _line(cell: CellConfig, entry: Entry | None, how: str) -> str:
    """A finished cell with its scores."""
    assert entry is not None, "only finished cells have scores"
    if cell.measure is not None:
        return f"{describe(cell)}  {values_text(entry)}  ({how})"
    metrics, trained = entry.result["metrics"], entry.result["stages"].get("train", {"result": {}})["result"]
    if "asft/modules" in trained:
        how = f"{how}, {trained['asft/modules']} modules anchored"
    return f"{describe(cell)}  HS {metrics['hs']:5.1f}  FA {metrics['fa']:5.1f}  ({how})"


def describe(cell: CellConfig) -> str:
    """A cell in one short line: method, model, task, and what is attacked how."""
    attack = cell.attack
    if cell.measure is not None:
        return f"{cell.measure.describe()}  {cell.model.name} n={attack.n} seed={cell.seed}"
    poison = f"{attack.source} p={attack.p:g} n={attack.n}" if cell.method.trains else "not fine-tuned"
    lam = cell.method.settings().get("lam")
    method = cell.method.name if lam is None else f"{cell.method.name} λ={lam:g}"
    rate = f" lr={cell.training.lr:g}" if cell.method.trains else ""
    asked = unusual({part: getattr(cell, part).name for part in USUAL})
    return f"{method:<14} {cell.model.name} {cell.dataset.name} {poison}{rate}{asked} seed={cell.seed}"


def distinct(cells: Sequence[SweepCell]) -> dict[str, SweepCell]:
    """Cells by key: a control that does not depend on an axis is one cell, not one per value."""
    found: dict[str, SweepCell] = {}
    for item in cells:
        found.setdefault(plan(item.cell).key, item)
    return found


def values_text(entry: Entry) -> str:
    """A measure's numbers in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in entry.result["values"].items())


def _finished(key: str, item: SweepCell) -> Entry | None:
    return Store(item.cell.outputs).find(store_kind(item.cell), key)


def _summary(cells: dict[str, SweepCell], sweep: bool) -> int:
    """After a sweep, lists what did not finish; a single cell has told its failure already."""
    missing = {key: item for key, item in cells.items() if _finished(key, item) is None}
    if not missing:
        return 0
    if sweep:
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
