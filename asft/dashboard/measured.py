"""Measured landscapes for the pages, as curves and grids."""

from __future__ import annotations

import json
from typing import Any

from asft.store.entries import CONFIG_FILE, DETAILS, Entry

WORDS = {
    "safe_share": "share of the grid that is safe, %",
    "centre": "HS of the aligned model itself, %",
    "cosine": "cosine between the two directions",
    "mean_hs": "mean HS along the direction, %",
    "mean_hs_random": "mean HS along the random directions, %",
    "epl": "EPL, the α up to which the model stays safe both ways",
    "ahead": "the same towards positive α",
    "behind": "the same towards negative α",
}


def landscape_data(entry: Entry) -> dict[str, Any] | None:
    """A plane, the lines or the profiles of one finished measure; None where it has no landscape (a cosine)."""
    details = json.loads((entry.path / DETAILS).read_text())
    config = json.loads((entry.path / CONFIG_FILE).read_text())
    kind, values = details.get("kind"), entry.result["values"]
    measured = {"values": values, "radius": None, "words": WORDS}
    where = f"{config['model']['name']}, seed {config['seed']}"
    if kind == "plane":
        orthogonal = ", y made orthogonal" if details["orthogonal"] else ""
        axes = [_axis(f"α, {details['x']}", details["steps"]), _axis(f"β, {details['y']}", details["steps"])]
        title = f"{details['x']} × {details['y']}{orthogonal}: {where}"
        return {"title": title, "axes": axes, "hs": details["hs"], "others": [], **measured}
    if kind == "lines":
        others = [{"x": details["steps"], "y": line} for line in details["random"]]
        title = f"{details['along']} direction and {len(others)} random ones: {where}"
        axes = [_axis(f"α, {details['along']}", details["steps"])]
        return {"title": title, "axes": axes, "hs": details["hs"], "others": others, **measured}
    if kind == "epl":
        first, *rest = ({"x": [a for a, _ in points], "y": [hs for _, hs in points]} for points in details["points"])
        name = config["measure"]["direction"]
        return {
            "title": f"safe stretch along the {name} direction: {where}",
            "axes": [_axis(f"α, {name}", first["x"])],
            "hs": first["y"],
            "others": rest,
            **measured,
            "radius": values["epl"],
        }
    return None


def _axis(name: str, values: list[float]) -> dict[str, Any]:
    return {"name": name, "values": values}
