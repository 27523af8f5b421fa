"""Data files of the site: JavaScript instead of JSON, because a page opened from disk may not fetch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_data(folder: Path, name: str, value: Any) -> None:
    """Writes ``data/<name>.js``, which hands ``value`` to the page under that name.

    JSON with NaN and infinities is valid JavaScript; the file is renamed into place, since a page may be reading.
    """
    path = folder / "data" / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    scratch.write_text(f"Asft.put({json.dumps(name)},{body});\n", encoding="utf-8")
    scratch.replace(path)
