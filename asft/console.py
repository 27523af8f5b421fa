"""The one terminal: rich's console on standard error for progress, and a log handler that shares it."""

from __future__ import annotations

import logging
import warnings

from rich.console import Console
from rich.text import Text

# Progress and log lines go to standard error, so that `asft report … > file` keeps results alone.
console = Console(stderr=True, highlight=False)

# Where bitsandbytes is installed, peft imports it whether or not weights are quantised, and it advises on kernels.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}


def quiet_libraries() -> None:
    """Turns off the progress bars and advice that transformers prints at every load of a model."""
    from transformers.utils import logging as transformers_logging  # loads torch

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def show_log() -> None:
    """Shows this package's log on the terminal, for commands that Hydra does not start: it configures logging."""
    logger = logging.getLogger("asft")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())


class ConsoleHandler(logging.Handler):
    """Prints records through :data:`console`, so that they do not tear progress bars apart."""

    def emit(self, record: logging.LogRecord) -> None:
        """See :class:`logging.Handler`."""
        console.print(Text(self.format(record), style=_STYLES.get(record.levelno, "")), soft_wrap=True)
