"""Errors that end more than a cell: a full disk, recognised whoever reports it, and processes out of step."""

from __future__ import annotations

import errno


class OutOfStep(RuntimeError):
    """A process failed where another did not, so that they cannot go on together; the program must end."""


class DamagedEntry(ValueError):
    """An entry that does not hold what was written; the message names the file and what is wrong with it."""


class DiskFull(ValueError):
    """No room for a result, told in one line; what was finished before is untouched."""


MAKE_ROOM = "Free some space (`asft store gc` lists what can go) and run again: finished stages are kept."
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TORCH = ("unexpected pos", "PytorchStreamWriter failed")  # what torch.save says, without a number


def disk_full(error: BaseException) -> bool:
    """Whether an error says that a file could not grow; libraries report it in their texts."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(text in str(error) for text in (*_TORCH, *(f"(os error {number})" for number in _FULL)))
