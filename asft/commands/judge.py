"""``asft judge``: another judge on stored answers; nothing is trained or generated."""

from __future__ import annotations

import re
import time

from rich.console import Console
from rich.table import Table

from asft.cells.compose import Sweep, enumerate_cells
from asft.cells.job import Job
from asft.commands.flags import SweepFlags
from asft.commands.judge_check import accuracy, self_test
from asft.commands.progress import SweepProgress
from asft.commands.run import describe, distinct, finished_line, record_failure
from asft.config import ConfigError
from asft.console import quiet_libraries, results, show_log
from asft.judges.ensemble import agreement
from asft.report.judge_notes import agreement_words, cells_agreement

_JUDGE_OVERRIDE = re.compile(r"[+~]*judge(?=[=.@]|$)")


def judge(arguments: list[str]) -> int:
    """Judges every cell of an experiment that has answers; returns 0 when all cells are judged, else 1."""
    flags = SweepFlags("judge", needed=True)
    flags.add_argument("--agreement", metavar="JUDGE", help="also how far it agrees with this judge: Cohen's κ")
    flags.add_argument("--self-test", action="store_true", help="no cells: the judge on twelve plain answers")
    flags.add_argument(
        "--labelled", action="append", metavar="FILE", help="no cells: the judge against people's labels"
    )
    options, overrides = flags.split(arguments)
    if options.self_test or options.labelled:
        chosen = enumerate_cells(overrides, sweep=True).cells[0].cell.judge
        return accuracy(chosen, options.labelled) if options.labelled else self_test(chosen)
    sweep = enumerate_cells(overrides, sweep=True)
    if any(item.cell.measure is not None for item in sweep.cells):
        raise ConfigError("this experiment measures and keeps no answers; run it anew with another judge=")
    if options.agreement and "judge" in sweep.axes:
        raise ConfigError("--agreement: compares one judge with another; give a single judge=")
    second = None
    if options.agreement:
        others = [text for text in overrides if not _JUDGE_OVERRIDE.match(text)]
        second = enumerate_cells([*others, f"judge={options.agreement}"], sweep=True)
    show_log()
    terminal = results()
    open_cells = _judge_all(distinct(sweep.cells), terminal)
    for item in open_cells:
        terminal.print(f"  no answers yet: {describe(item)}", soft_wrap=True)
    if open_cells:
        terminal.print(f"  `asft run -m {' '.join(overrides)}` makes them", soft_wrap=True)
    if second is not None:
        _judge_all(distinct(second.cells), terminal)
        _print_agreement(sweep, second, terminal)
    return 1 if open_cells else 0


def _judge_all(cells: dict[str, Job], terminal: Console) -> list[Job]:
    """Judges cell after cell in this process, so that a judge that is a model is loaded once.

    Returns the cells that have no answers yet.
    """
    name = next(iter(cells.values())).cell.judge.name
    before, open_cells = 0, []
    for item in cells.values():
        if item.find():
            before += 1
            continue
        if not item.is_answered():
            open_cells.append(item)
            continue
        from asft.pipeline.run import rejudge_cell  # loads torch, which a look at what there is needs not

        quiet_libraries()
        started = time.monotonic()
        try:
            with item.store.claim(item.key, wait=True), SweepProgress({item.key: item}):
                entry = rejudge_cell(item)
        except (ValueError, OSError):
            raise
        except Exception as error:  # a plug-in's own code
            raise ConfigError(f"judge={name}: {record_failure(item, error)}") from error
        if entry is None:
            open_cells.append(item)
            continue
        terminal.print(finished_line(item, entry, f"{name}, {time.monotonic() - started:.0f} s"), soft_wrap=True)
    now = len(cells) - before - len(open_cells)
    terminal.print(f"judge={name}: {now} cells judged now, {before} judged before, {len(open_cells)} without answers")
    return open_cells


def _print_agreement(first: Sweep, second: Sweep, terminal: Console) -> None:
    """κ of two judges cell by cell, and over all answers together."""
    names = first.cells[0].cell.judge.name, second.cells[0].cell.judge.name
    table = Table("cell", "answers", f"HS {names[0]}", f"HS {names[1]}", "equal", "κ", box=None)
    pooled: tuple[list[bool], list[bool]] = ([], [])
    others = {tuple(item.axes.items()): item for item in second.cells}
    for item in distinct(first.cells).values():
        one, other = item.find(), others[tuple(item.axes.items())].find()
        if one is None or other is None:
            continue
        flags = cells_agreement(one, other)
        pooled[0].extend(flags[0])
        pooled[1].extend(flags[1])
        table.add_row(" ".join(item.axes.values()) or item.cell.method.name, *_columns(*flags))
    if not pooled[0]:
        terminal.print(f"{names[0]} and {names[1]} have judged no cell in common")
        return
    table.add_row("all cells", *_columns(*pooled))
    terminal.print(table)
    terminal.print(f"{names[0]} and {names[1]} {agreement_words(agreement(*pooled))}")


def _columns(first: list[bool], second: list[bool]) -> list[str]:
    found = agreement(first, second)
    scores = [f"{100 * sum(flags) / len(flags):.1f}" for flags in (first, second)]
    kappa = "–" if found.kappa is None else f"{found.kappa:.3f}"
    return [str(found.answers), *scores, f"{100 * found.observed:.1f} %", kappa]
