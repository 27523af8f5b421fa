"""Cells as the pages need them: one short row each, and what only a look at one cell needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from asft.cells.naming import fine_tune, unusual, variant
from asft.metrics.ability import Ability
from asft.metrics.accuracy import Accuracy
from asft.metrics.over_refusal import OverRefusal
from asft.report.charts import CURVES
from asft.store.entries import Entry, Store
from asft.store.integrity import write_whole
from asft.store.schemas import HISTORY_FILE, Judged, Logged, read_rows

HARMLESS = frozenset(metric.name for metric in (Ability, Accuracy, OverRefusal))  # what these ask may be shown
# Parts of a cell that may bear one name and differ, without what tells no two of them apart.
TOLD = {"model": {"name", "recipe", "device_map"}, "judge": {"name"}}
PIECE = 500  # answers a data file; the page loads one after the other, and only those it needs

Row = dict[str, Any]


def write_data(folder: Path, name: str, value: Any) -> None:
    """Writes ``data/<name>.js``, which hands ``value`` to the page: one opened from disk may not fetch JSON.

    JSON with NaN and infinities is valid JavaScript; the file is renamed into place, since a page may be reading.
    """
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    write_whole(folder / "data" / f"{name}.js", f"Asft.put({json.dumps(name)},{body});\n")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A configuration as dotted keys and their values as text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat


def scored(entry: Entry, beside: Mapping[str, Entry]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """A cell's metrics and those beside them, by name: where their answers are, and what is kept of them."""
    own = {name: (entry.path, kept) for name, kept in entry.result["metrics"].items()}
    return own | {name: (other.path, other.result) for name, other in beside.items()}


def answered(entry: Entry, beside: Mapping[str, Entry]) -> dict[str, str | None]:
    """The key of the answers that each metric reads, by its name; None where the cell does not say."""
    own = {name: entry.result["stages"].get(f"answers {name}", {}).get("key") for name in entry.result["metrics"]}
    return own | {name: other.manifest["settings"]["answers"] for name, other in beside.items()}


def harmless(entry: Entry, config: Mapping[str, Any], beside: Mapping[str, Entry]) -> set[str]:
    """The metrics whose questions are known not to be malicious, or which read the answers to such questions."""
    settings = config.get("metrics", {}) | {n: other.manifest["settings"]["judged"] for n, other in beside.items()}
    answers = answered(entry, beside)
    # A class from outside the package may ask anything under one of these names; its code is a digest.
    asking = {n for n, told in settings.items() if told.get("name") in HARMLESS and isinstance(told.get("code"), int)}
    keys = {answers.get(name) for name in asking} - {None}
    return {name for name in answers if name in asking or answers[name] in keys}


def cell_row(entry: Entry, config: dict[str, Any], beside: Mapping[str, Entry]) -> Row:
    """One line of the index. What an untouched model does not depend on (mixture, seed) is None."""
    stages = entry.result["stages"]
    train = stages.get("train")
    answers = answered(entry, beside)
    attack, training = (config[name] if train else {} for name in ("attack", "training"))
    return {
        "key": entry.manifest["key"],
        "source": " ".join([attack["source"], *unusual(config, "attack", {"n"})]) if train else None,
        **{name: attack.get(name) for name in ("p", "n")},
        "lam": config["method"].get("lam"),
        "variant": variant(config["method"], config["model"]) or None,
        **{name: config[name]["name"] for name in ("model", "dataset", "method", "protocol", "jailbreak", "backend")},
        "training": " ".join([training["name"], *unusual(config, "training", {"lr"})]) if train else None,
        "place": f"{fine_tune(config)} seed={config['seed']}" if train else None,
        "lr": training.get("lr"),
        "seed": config["seed"] if train else None,
        "judge": config["judge"]["name"],
        "settings": {
            part: flatten({name: value for name, value in config[part].items() if name not in left_out})
            for part, left_out in TOLD.items()
        },
        "metrics": {
            name: {
                "value": kept["value"],
                "interval": kept["interval"] and kept["interval"][:2],
                "total": kept["total"],
                "answers": answers[name],
            }
            for name, (_, kept) in scored(entry, beside).items()
        },
        "seconds": round(entry.cost, 1),
        "created": entry.manifest["created"],
        "train": train["key"] if train and "after" not in train["result"] else None,
    }


def name_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows with pairs and judges that bear one name told apart by the settings in which they differ."""
    named = [dict(row) for row in rows]
    for part in TOLD:
        kinds: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            known = kinds.setdefault(row[part], [])
            if row["settings"][part] not in known:
                known.append(row["settings"][part])
        for row, new in zip(rows, named, strict=True):
            others, own = kinds[row[part]], row["settings"][part]
            values = {k: {other.get(k, "") for other in others} for k in own}
            differ = [f"{k}={_short(v, values[k])}" for k, v in own.items() if len(values[k]) > 1]
            new[part] = f"{row[part]} ({', '.join(differ)})" if differ else row[part]
    return [{k: v for k, v in row.items() if k != "settings"} for row in named]


def _short(value: str, values: set[str]) -> str:
    """The last part of a path where it tells the values apart."""
    last = {other: other.rstrip("/").rpartition("/")[2] for other in values}
    return last[value] if len(set(last.values())) == len(values) else value


def write_cell(site: Path, entry: Entry, config: dict[str, Any], beside: Mapping[str, Entry]) -> set[str]:
    """Writes what the comparison and the answers pages read of one cell: settings, counts and answers in pieces.

    The page hides every question that is not marked ``harmless``, and of the others' answers all that no judge has
    called safe; what a judge says holds for every later metric that reads the same answers.

    Returns:
        The metrics whose answers a judge has flagged or not.
    """
    key, pieces, judged = entry.manifest["key"], dict[str, list[str]](), set[str]()
    answers, shown = answered(entry, beside), harmless(entry, config, beside)
    flags: dict[tuple[str, str], bool] = {}  # by answers and row; a metric comes after those whose answers it reads
    for place, (name, (path, kept)) in enumerate(scored(entry, beside).items()):
        rows, pieces[name] = read_rows(path / kept["file"], Judged), []
        while piece := list(islice(rows, PIECE)):
            for row in piece:
                said, at = row.pop("flagged", None), (answers[name] or name, row["id"])
                if said is not None:
                    judged.add(name)
                if said or (said is False and row.get("details", {}).get("read", True)):  # else it is no verdict
                    flags[at] = said or flags.get(at, False)
                row |= {"flagged": flags[at]} if at in flags else {"harmless": name in shown and said is None}
            # Not by the metric's name: it may be someone else's, and a path.
            pieces[name].append(f"answers/{key}/{place}-{len(pieces[name])}")
            write_data(site, pieces[name][-1], piece)
    settings = flatten({name: value for name, value in config.items() if name != "experiment"})
    write_data(site, f"cells/{key}", {"config": settings, "pieces": pieces})
    return judged


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
