"""The one terminal: standard error for progress and the log, standard output for what a command is asked for."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from asft.text import masked, visible


class Terminal(Console):
    """Prints every text as text: no markup is read from it, its control characters are shown, secrets are not.

    What is styled says so by ``style`` or as :class:`rich.text.Text`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Makes room in tables for what is shown; a secret is masked before a width cuts or wraps it."""
        return super().render_str(visible(masked(text)), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Through this comes all that is printed; segments of control are rich's own."""
        if isinstance(renderable, Text) and (shown := masked(renderable.plain)) != renderable.plain:
            renderable = renderable.blank_copy(shown)
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(masked(text)), style, control)


console = Terminal(stderr=True)

# Where bitsandbytes is installed, peft imports it whether or not weights are quantised, and it advises on kernels.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}


def results(**settings: Any) -> Terminal:
    """Standard output; progress goes elsewhere, so that `asft report … > file` keeps results alone."""
    return Terminal(file=sys.stdout, **settings)


def print_anywhere() -> None:
    """Where a terminal's encoding lacks a letter, another is printed in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


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
