"""The site's folder: the pages as they ship, and data files written from the store."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from asft.dashboard.cells import Row, cell_row, finished_keys, read_config, write_cell, write_curve
from asft.dashboard.measured import landscape_data
from asft.dashboard.script import write_data
from asft.dashboard.tables import Experiment, experiment_page
from asft.report.writers.figures import PALETTE
from asft.store.entries import Store


@dataclass(frozen=True)
class SiteCounts:
    """What a build found."""

    cells: int
    failures: int
    experiments: int
    answers: int


class Site:
    """A dashboard folder that is built once, or again and again while a sweep runs.

    A finished cell never changes, so its own files are written at the first build that sees it; a later build of
    the same object writes what is new, the tables and the index.

    Attributes:
        rows: the index line of every cell written so far, by key.

    Args:
        store: the outputs folder.
        experiments: whose tables are shown.
        folder: where the site is; what an earlier build left in its ``data`` is removed.
        live: whether the page looks for a newer build every two seconds.
    """

    def __init__(self, store: Store, experiments: Sequence[Experiment], folder: Path, *, live: bool = False) -> None:
        self.store, self.experiments, self.folder, self.live = store, experiments, folder, live
        self.rows: dict[str, Row] = {}
        self._curves: set[str] = set()
        shutil.rmtree(folder / "data", ignore_errors=True)
        with as_file(files("asft.dashboard") / "assets") as assets:
            shutil.copytree(assets, folder, dirs_exist_ok=True)
        (folder / "vendor" / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")

    @property
    def index(self) -> Path:
        """The page to open."""
        return self.folder / "index.html"

    def build(self) -> SiteCounts:
        """Writes everything the store has by now; the index last, so that it names nothing that is not there yet."""
        for key in finished_keys(self.store):
            self._add_cell(key)
        overview, failures = self._write_tables(), self._failures()
        rows = list(self.rows.values())
        index = {
            "cells": rows,
            "failures": failures,
            "experiments": overview,
            "landscapes": self._write_landscapes(),
            "anchors": self._write_folders("reports/anchor_*/spectrum.json", "anchors"),
            "palette": [{"colour": colour, "symbol": symbol} for colour, symbol in PALETTE],
            "live": self.live,
        }
        write_data(self.folder, "index", index)
        stamp = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()[:12]
        write_data(self.folder, "version", stamp)
        answers = sum(row["harmful"] + row["task"] for row in rows)
        return SiteCounts(len(rows), len(failures), sum(bool(line["done"]) for line in overview), answers)

    def _add_cell(self, key: str) -> None:
        if key in self.rows:
            return
        entry = self.store.find("cells", key)
        if entry is None:
            return
        config = read_config(entry)
        row = cell_row(entry, config)
        write_cell(self.folder, entry, config)
        train = row["train"]
        if train and train not in self._curves:
            if write_curve(self.folder, self.store, train):
                self._curves.add(train)
            else:
                row["train"] = None
        self.rows[key] = row

    def _write_tables(self) -> list[dict[str, Any]]:
        overview = []
        for experiment in self.experiments:
            line, table = experiment_page(experiment)
            if table is not None:
                write_data(self.folder, f"tables/{experiment.name}", table)
            overview.append(line)
        return overview

    def _failures(self) -> list[dict[str, Any]]:
        """Why cells failed last time, the newest first; a cell that has finished since is left out."""
        found = []
        for path in (self.store.root / "failures").glob("*.json"):
            failure = json.loads(path.read_text())
            if failure["key"] not in self.rows:
                config = failure["config"]
                place = {name: config[name]["name"] for name in ("model", "dataset", "method")}
                place |= {name: config["attack"][name] for name in ("source", "p", "n")}
                found.append({**place, "seed": config["seed"], **{k: failure[k] for k in ("key", "message", "time")}})
        return sorted(found, key=lambda failure: str(failure["time"]), reverse=True)

    def _write_landscapes(self) -> list[dict[str, str]]:
        """Hands every measured landscape to the page; key and title of each."""
        found = []
        for key in sorted(path.name for path in (self.store.root / "measures").glob("[0-9a-f]*")):
            entry = self.store.find("measures", key)
            data = landscape_data(entry) if entry else None
            if data is not None:
                write_data(self.folder, f"landscapes/{key}", data)
                found.append({"key": key, "title": data["title"]})
        return sorted(found, key=lambda line: line["title"])

    def _write_folders(self, pattern: str, name: str) -> list[str]:
        """Hands result files of other commands to the page, by the name of the folder that each is in."""
        names = []
        for path in sorted(self.store.root.glob(pattern)):
            write_data(self.folder, f"{name}/{path.parent.name}", json.loads(path.read_text()))
            names.append(path.parent.name)
        return names


def fingerprint(store: Store) -> str:
    """Changes whenever a cell finishes or fails, or a landscape or a spectrum is written."""
    watched = [store.root / "cells", store.root / "failures", store.root / "measures"]
    watched += sorted(store.root.glob("reports/anchor_*"))
    return " ".join(str(path.stat().st_mtime_ns) for path in watched if path.exists())
