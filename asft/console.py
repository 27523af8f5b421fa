"""The one terminal: standard error for progress and the log, standard output for what a command is asked for."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from rich.console import Console
from rich.text import Text

console = Console(stderr=True, highlight=False)

# Where bitsandbytes is installed, peft imports it whether or not weights are quantised, and it advises on kernels.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}


def results(**settings: Any) -> Console:
    """Standard output; progress goes elsewhere, so that `asft report … > file` keeps results alone."""
    return Console(file=sys.stdout, highlight=False, **settings)


def quiet_libraries() -> None:
    """Turns off the progress bars and advice that transformers prints at every load of a model."""
    from transformers.utils import logging as transformers_logging  # loads torch

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def show_log(handler: logging.Handler | None = None) -> None:
    """Shows this package's log, and others' warnings, on the terminal or by another handler."""
    root = logging.getLogger()
    logging.getLogger("asft").setLevel(logging.INFO)
    if not any(isinstance(one, ConsoleHandler) for one in root.handlers):
        root.addHandler(handler or ConsoleHandler())


class ConsoleHandler(logging.Handler):
    """Prints records through :data:`console`, so that they do not tear progress bars apart."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(Text(self.format(record), style=_STYLES.get(record.levelno, "")), soft_wrap=True)
