"""``python -m asft`` and ``asft``: the command line, ended in one line by Ctrl-C or SIGTERM, however often."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

_GOING_ON = {"run", "landscape", "judge"}  # what these have finished is kept, and not done again
_PATIENCE = 5.0  # seconds in which a command may tidy up before another Ctrl-C ends it where it stands
_presses = itertools.count()  # of Ctrl-C: a second one may interrupt the first one's handling
_code = 130
_deadline = float("inf")
_line = b"interrupted\n"
_over = False  # libraries are closing down, and would tell of an interrupt line by line


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``asft``: see :func:`asft.cli.main`; 130 is returned after Ctrl-C, 143 after SIGTERM."""
    global _line, _over
    if {*(sys.argv[1:] if argv is None else argv)[:1]} & _GOING_ON:
        _line = b"interrupted; finished stages are kept, the next run goes on from them\n"
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # the latter is a scheduler's
            signal.signal(number, _interrupt)
        sys.unraisablehook = _swallowed
        from asft.cli import main as command

        command(argv)
    except KeyboardInterrupt:
        raise SystemExit(_code) from None
    finally:
        _over = True


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Tidies up once; nothing in the store is ever half written, so that a command can also end where it stands."""
    global _code, _deadline
    first = next(_presses) == 0
    if first:
        _code, _deadline = 128 + number, time.monotonic() + _PATIENCE
        os.write(2, b"\n" * os.isatty(2) + _line)  # a terminal shows ^C
    if _over or time.monotonic() > _deadline:
        os._exit(_code)
    if first:
        raise KeyboardInterrupt


def _swallowed(error: "sys.UnraisableHookArgs") -> None:
    """An interrupt that fell into a finalizer goes nowhere, and would not end the command."""
    if error.exc_type is KeyboardInterrupt:
        os._exit(_code)
    sys.__unraisablehook__(error)


if __name__ == "__main__":
    main()
