"""``asft landscape``: the harmful score around a model, measured where it is not yet, and drawn."""

from __future__ import annotations

from asft.cells.compose import enumerate_cells
from asft.commands.flags import Flags
from asft.commands.report import report_sweep
from asft.commands.run import run
from asft.config import ConfigError


def landscape(arguments: list[str]) -> int:
    """Measures and reports an experiment (``experiment=fig1``), or one plane of any pair or adapter.

    Without an experiment, ``measure=plane`` is the default: ``asft landscape model=pair model.base=DIR
    model.aligned=DIR measure.y=ADAPTER``.
    """
    flags = Flags("landscape", "experiment=fig1 …, or measure=plane and a pair: one plane", needed=True)
    flags.add_argument("-m", "--multirun", action="store_true", help="an experiment is always measured whole")
    options, words = flags.split(arguments)
    keys = {word.partition("=")[0] for word in words}
    if not keys & {"experiment", "measure"}:
        words = ["measure=plane", *words]
    whole = "experiment" in keys
    if not whole and options.multirun:
        raise ConfigError("-m: several values need a layout; name an experiment=, or run one plane after the other")
    sweep = enumerate_cells(words, sweep=whole)
    if any(item.cell.measure is None for item in sweep.cells):
        raise ConfigError("this experiment scores cells and measures no landscape; launch it by `asft run -m`")
    failed = run(["-m", *words] if whole else words)
    return failed or report_sweep(sweep, words)
