"""AsFT: fine-tune language models without losing their safety.

The public names below load on first use, so that ``import asft`` (and with it ``asft --help``) stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asft.anchor.anchor import Anchor
    from asft.anchor.callback import AsFTCallback, FullAsFTCallback
    from asft.anchor.projection import project_adapter, safe_lora
    from asft.auditing.run import audit, repair

__version__ = "0.1.0"

_HOMES = {
    "Anchor": "asft.anchor.anchor",
    "AsFTCallback": "asft.anchor.callback",
    "FullAsFTCallback": "asft.anchor.callback",
    "audit": "asft.auditing.run",
    "project_adapter": "asft.anchor.projection",
    "repair": "asft.auditing.run",
    "safe_lora": "asft.anchor.projection",
}

__all__ = [
    "Anchor",
    "AsFTCallback",
    "FullAsFTCallback",
    "__version__",
    "audit",
    "project_adapter",
    "repair",
    "safe_lora",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'asft' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
