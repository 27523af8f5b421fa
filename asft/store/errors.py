"""Errors that end more than a cell: a full disk, recognised whoever reports it, and processes out of step."""

from __future__ import annotations

import errno


class OutOfStep(RuntimeError):
    """A process failed where another did not, so that they cannot go on together; the program must end."""


class DiskFull(ValueError):
    """No room for a result, told in one line; what was finished before is untouched."""


MAKE_ROOM = "Free some space (`asft store gc` lists what can go) and run again: finished stages are kept."
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_full(error: BaseException) -> bool:
    """Whether an error says that a file could not grow; safetensors reports the system's number in its text."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {number})" in str(error) for number in _FULL)
