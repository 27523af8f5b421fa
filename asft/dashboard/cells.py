"""Cells as the pages need them: one short row each, and what only a look at one cell needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from asft.report.charts import CURVES
from asft.store.entries import Entry, Store
from asft.store.schemas import HARMFUL_FILE, HISTORY_FILE, TASK_FILE, Judged, Logged, read_rows

PIECE = 500  # answers a data file; the page loads one after the other, and only those it needs
PARTS = {"harmful": HARMFUL_FILE, "task": TASK_FILE}
_KEY = re.compile(r"[0-9a-f]{20}")

Row = dict[str, Any]


def finished_keys(store: Store) -> list[str]:
    """Keys of the cells folder in order; a folder without a manifest is for the caller to leave out."""
    folder = store.root / "cells"
    return sorted(path.name for path in folder.iterdir() if _KEY.fullmatch(path.name)) if folder.is_dir() else []


def write_data(folder: Path, name: str, value: Any) -> None:
    """Writes ``data/<name>.js``, which hands ``value`` to the page: one opened from disk may not fetch JSON.

    JSON with NaN and infinities is valid JavaScript; the file is renamed into place, since a page may be reading.
    """
    path = folder / "data" / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    scratch.write_text(f"Asft.put({json.dumps(name)},{body});\n", encoding="utf-8")
    scratch.replace(path)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A configuration as dotted keys and their values as text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat


def cell_row(entry: Entry, config: dict[str, Any]) -> Row:
    """One line of the index. What an untouched model does not depend on (mixture, seed) is None."""
    metrics, stages = entry.result["metrics"], entry.result["stages"]
    train = stages.get("train")
    attack = config["attack"] if train else {"source": None, "p": None, "n": None}
    training = config["training"] if train else {"name": None, "lr": None}
    hs, fa = metrics["HS"], metrics["FA"]
    return {
        "key": entry.manifest["key"],
        "model": config["model"]["name"],
        "dataset": config["dataset"]["name"],
        "source": attack["source"],
        "p": attack["p"],
        "n": attack["n"],
        "lam": config["method"].get("lam"),
        "method": config["method"]["name"],
        "training": training["name"],
        "lr": training["lr"],
        "seed": config["seed"] if train else None,
        "protocol": config["protocol"]["name"],
        "judge": config["judge"]["name"],
        "judge_settings": {name: value for name, value in flatten(config["judge"]).items() if name != "name"},
        "jailbreak": config["jailbreak"]["name"],
        "backend": config["backend"]["name"],
        "hs": hs["value"],
        "hs_interval": hs["interval"] and hs["interval"][:2],
        "fa": fa["value"],
        "fa_interval": fa["interval"] and fa["interval"][:2],
        "harmful": hs["total"],
        "task": fa["total"],
        "seconds": round(entry.seconds + sum(stage["seconds"] for stage in stages.values()), 1),
        "created": entry.manifest["created"],
        "train": train["key"] if train and "after" not in train["result"] else None,
        "answers": stages.get("answers HS", {}).get("key"),
    }


def name_judges(rows: list[Row]) -> list[Row]:
    """The rows with judges that bear one name told apart by the settings in which they differ."""
    kinds: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        known = kinds.setdefault(row["judge"], [])
        if row["judge_settings"] not in known:
            known.append(row["judge_settings"])
    named = []
    for row in rows:
        own, known = row["judge_settings"], kinds[row["judge"]]
        differ = [f"{k}={v}" for k, v in own.items() if any(other.get(k) != v for other in known)]
        judge = f"{row['judge']} ({', '.join(differ)})" if differ else row["judge"]
        named.append({**{k: v for k, v in row.items() if k != "judge_settings"}, "judge": judge})
    return named


def write_cell(site: Path, entry: Entry, config: dict[str, Any]) -> None:
    """Writes what the comparison and the answers pages read of one cell: settings, counts and answers in pieces."""
    key = entry.manifest["key"]
    pieces = {}
    for part, name in PARTS.items():
        pieces[part] = 0
        for piece in _pieces(read_rows(entry.path / name, Judged)):
            write_data(site, f"answers/{key}/{part}-{pieces[part]}", piece)
            pieces[part] += 1
    write_data(
        site,
        f"cells/{key}",
        {
            "config": flatten({name: value for name, value in config.items() if name != "experiment"}),
            "pieces": pieces,
            "versions": entry.manifest["versions"],
            "commit": entry.manifest["commit"],
        },
    )


def _pieces(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while piece := list(islice(rows, PIECE)):
        yield piece


def write_curve(site: Path, store: Store, train: str) -> bool:
    """Writes one training's curves, a list a line and None where a step logged nothing; False where there are none."""
    path = store.path("stages/train", train) / HISTORY_FILE
    if not path.is_file():
        return False
    logged = [row for row in read_rows(path, Logged) if "loss" in row]
    lines = {name: [row.get(name) for row in logged] for name in CURVES}
    drawn = {name: line for name, line in lines.items() if any(value is not None for value in line)}
    write_data(site, f"curves/{train}", {"step": [row["step"] for row in logged], **drawn})
    return True
