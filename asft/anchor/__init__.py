"""The alignment direction: streamed from two checkpoints, cached, inspected, and penalised in training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asft.anchor.anchor import Anchor
    from asft.anchor.callback import AsFTCallback, FullAsFTCallback

_HOMES = {
    "Anchor": "asft.anchor.anchor",
    "AsFTCallback": "asft.anchor.callback",
    "FullAsFTCallback": "asft.anchor.callback",
}

__all__ = ["Anchor", "AsFTCallback", "FullAsFTCallback"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the package itself imports without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'asft.anchor' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
