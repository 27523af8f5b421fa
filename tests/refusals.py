"""How a user is refused: in one line."""

from __future__ import annotations

import re

import pytest


def refuses(message: str) -> pytest.RaisesExc:
    """A ValueError of one line that contains ``message``."""
    return pytest.raises(ValueError, match=rf"\A[^\n]*{re.escape(message)}[^\n]*\Z")
