"""The site's folder: the pages as they ship, and data files written from the store."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path
from typing import Any

from asft.cells.naming import method_name
from asft.config import passed_on
from asft.dashboard.cells import Row, cell_row, name_apart, scored, write_cell, write_curve, write_data
from asft.dashboard.tables import Experiment, experiment_page, landscape_data
from asft.report import charts
from asft.report.records import Metric
from asft.store.entries import Entry, Store
from asft.store.errors import DamagedEntry
from asft.store.heartbeat import SUFFIX
from asft.store.schemas import CONFIG_FILE, Config, Failure, Spectrum, read_document
from asft.text import without_home

PAGES = ("overview", "table", "frontier", "pareto", "curves", "compare", "generations", "landscape", "anchor")
TRACE_LINES = 12  # of a failure's traceback: the last ones say where


@dataclass(frozen=True)
class SiteCounts:
    """What a build found."""

    cells: int
    failures: int
    experiments: int
    answers: int


class Site:
    """A dashboard folder that is built once, or again and again while a sweep runs.

    A finished cell never changes, so its own files are written at the first build that sees it, and again when more is
    scored beside it; a later build of the same object writes what is new, the tables and the index.

    Attributes:
        rows: the index line of every cell written so far, by key.
        seen: the store's :func:`fingerprint` when the last build began; what finished since is not shown yet.

    Args:
        store: the outputs folder.
        experiments: whose tables are shown.
        folder: where the site is; what an earlier build left in its ``data`` is removed.
        live: whether the page looks for a newer build every two seconds.
    """

    def __init__(self, store: Store, experiments: Sequence[Experiment], folder: Path, *, live: bool = False) -> None:
        self.store, self.experiments, self.folder, self.live = store, experiments, folder, live
        self.rows: dict[str, Row] = {}
        self._scores: dict[str, set[str]] = {}  # what was scored beside a cell when its files were written, by key
        self._metrics: dict[bool, dict[str, Metric]] = {True: {}, False: {}}  # cells' own, and what is beside them
        self.seen = ""
        lay_out(folder)

    @property
    def index(self) -> Path:
        """The page to open."""
        return self.folder / "index.html"

    def build(self) -> SiteCounts:
        """Writes everything the store has by now; the index last, so that it names nothing that is not there yet."""
        seen, damaged = fingerprint(self.store), list[dict[str, Any]]()
        beside = self._beside(damaged)
        self._forget()
        for path in sorted((self.store.root / "cells").glob("[0-9a-f]" * 20)):
            try:
                scores = beside.get(path.name, {})
                keys = {score.path.name for score in scores.values()}
                if self._scores.get(path.name) != keys and (entry := self.store.read("cells", path.name)):
                    scores = self._readable(scores, damaged)
                    self._add_cell(entry, scores)
                    self._scores[path.name] = {score.path.name for score in scores.values()}
            except DamagedEntry as error:
                damaged.append(_unknown(path.name, error))
        overview, failures = self._write_tables(), [*self._failures(), *damaged]
        self.write_running()
        rows = name_apart(list(self.rows.values()))
        metrics = {**self._metrics[True], **self._metrics[False], **self._metrics[True]}  # a cell's own come first
        styles = charts.store_styles(row["method"] for row in rows)
        write_index(
            self.folder,
            cells=rows,
            metrics=[{"name": name, "label": m.label, "lower": m.lower_is_better} for name, m in metrics.items()],
            failures=failures,
            experiments=overview,
            landscapes=self._write_landscapes(),
            anchors=self._write_anchors(),
            charts={
                # By the directions of the two axes; the page names them.
                "pareto": {
                    " ".join(lower): charts.trade_off(styles, *(Metric("", "", word == "lower") for word in lower))
                    for lower in product(("lower", "higher"), repeat=2)
                },
                "curves": charts.curves(styles),
                "spectrum": charts.spectrum(),
            },
            curves=charts.CURVES,
            pages=PAGES,
            live=self.live,
        )
        self.seen = seen
        answers = sum(score["total"] for row in rows for score in row["metrics"].values())
        return SiteCounts(len(rows), len(failures), sum(bool(line["done"]) for line in overview), answers)

    def write_running(self) -> None:
        """Writes which cells are at work now, and how far; a page that is open reads it again."""
        end, beats = f".claim{SUFFIX}", []
        sweeps = [experiment.sweep for experiment in self.experiments if experiment.sweep]
        names = {job.key: ", ".join(f"{k}={v}" for k, v in job.axes.items()) for sweep in sweeps for job in sweep.cells}
        for path in sorted((self.store.root / "cells").glob(f".*{end}")):
            key = path.name[1:].removesuffix(end)
            if beat := self.store.working(key):
                name = names.get(key, f"a cell of no experiment shown here, {key[:8]}")
                beats.append({"cell": name, "progress": beat.progress, "where": beat.where})
        write_data(self.folder, "running", beats)

    def _forget(self) -> None:
        """Removes what was written of cells that are gone, their answers included."""
        for key in [key for key in self.rows if not self.store.path("cells", key).exists()]:
            del self.rows[key]
            self._scores.pop(key, None)
            (self.folder / "data" / "cells" / f"{key}.js").unlink(missing_ok=True)
            shutil.rmtree(self.folder / "data" / "answers" / key, ignore_errors=True)

    def _readable(self, scores: Mapping[str, Entry], damaged: list[dict[str, Any]]) -> dict[str, Entry]:
        """The scores beside a cell but for damaged ones, which are reported and do not hide the cell."""
        found = {}
        for name, score in scores.items():
            try:
                if self.store.read("beside", score.path.name, whole=True):
                    found[name] = score
            except DamagedEntry as error:
                damaged.append(_unknown(score.path.name, error))
        return found

    def _beside(self, damaged: list[dict[str, Any]]) -> dict[str, dict[str, Entry]]:
        """What is scored beside cells' own metrics, by cell and name; of several settings of one the newest."""
        found: dict[str, dict[str, Entry]] = {}
        paths = (self.store.root / "beside").glob("[0-9a-f]" * 20)
        for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            try:
                if entry := self.store.read("beside", path.name):
                    cell, name = (str(entry.manifest["settings"].get(part)) for part in ("cell", "metric"))
                    found.setdefault(cell, {})[name] = entry
            except DamagedEntry as error:
                damaged.append(_unknown(path.name, error))
        return found

    def _add_cell(self, entry: Entry, beside: Mapping[str, Entry]) -> None:
        config = passed_on(read_document(entry.path / CONFIG_FILE, Config))
        row = cell_row(entry, config, beside)
        for name in write_cell(self.folder, entry, config, beside):
            row["metrics"][name]["judged"] = True
        try:
            drawn = row["train"] and write_curve(self.folder, self.store, row["train"])
        except DamagedEntry:  # of the training, not of the cell
            drawn = False
        row["train"] = row["train"] if drawn else None
        self.rows[entry.path.name] = row
        for name, (_, kept) in scored(entry, beside).items():
            self._metrics[name in entry.result["metrics"]].setdefault(
                name, Metric(name, kept["label"], kept["lower_is_better"], "%", 1, kept["about"])
            )

    def _write_tables(self) -> list[dict[str, Any]]:
        overview = []
        for experiment in self.experiments:
            line, table = experiment_page(experiment)
            if table is not None:
                write_data(self.folder, f"{line['page']}s/{experiment.name}", table)
            overview.append(line)
        return overview

    def _failures(self) -> list[dict[str, Any]]:
        """Why and where cells failed last time, the newest first; a cell that has finished since is left out."""
        found = []
        for path in (self.store.root / "failures").glob("*.json"):
            try:
                failure = read_document(path, Failure)
            except DamagedEntry as error:
                if path.exists():  # else its cell is run again
                    found.append(_unknown(path.stem, error))
                continue
            if failure["key"] not in self.rows:
                config, attack = failure["config"], failure["config"]["attack"]
                method = method_name(config["method"], config["model"])
                names = " · ".join((method, config["model"]["name"], config["dataset"]["name"]))
                cell = f"{names} {attack['source']} p={attack['p']} n={attack['n']} seed={config['seed']}"
                trace = "\n".join(failure.get("traceback", "").rstrip().splitlines()[-TRACE_LINES:])
                told = {"cell": cell, "trace": trace, **{k: failure[k] for k in ("key", "message", "time")}}
                found.append(without_home(told))
        return sorted(found, key=lambda failure: str(failure["time"]), reverse=True)

    def _write_landscapes(self) -> list[dict[str, str]]:
        """Hands every measured landscape to the page; key and title of each."""
        found = []
        for key in sorted(path.name for path in (self.store.root / "measures").glob("[0-9a-f]" * 20)):
            with suppress(DamagedEntry):
                entry = self.store.read("measures", key)
                if entry and (data := landscape_data(entry)):
                    write_data(self.folder, f"landscapes/{key}", data)
                    found.append({"key": key, "title": data["title"]})
        return sorted(found, key=lambda line: line["title"])

    def _write_anchors(self) -> list[str]:
        """Hands the spectra to the page, by the name of the folder that each is in."""
        names = []
        for path in sorted(self.store.root.glob("reports/anchor_*/spectrum.json")):
            with suppress(DamagedEntry):
                spectrum = read_document(path, Spectrum)
                shown = {**spectrum, "rows": charts.eigenvalues(spectrum["modules"])}
                write_data(self.folder, f"anchors/{path.parent.name}", shown)
                names.append(path.parent.name)
        return names


def _unknown(key: str, error: DamagedEntry) -> dict[str, Any]:
    return {"key": key, "cell": key, "message": f"damaged: {error}", "time": "", "trace": ""}


def write_report_page(folder: Path, table: dict[str, Any], page: str = "table") -> Path:
    """Writes the same site with one page's data and no cell: a report that can be passed on, since it holds no answers.

    Args:
        page: ``table``, or ``frontier`` where strengths are compared.

    Returns:
        The page to open.
    """
    lay_out(folder)
    write_data(folder, f"{page}s/{table['name']}", table)
    write_index(folder, experiments=[{"name": table["name"], "done": 1, "page": page}], pages=[page])
    return folder / "index.html"


def lay_out(folder: Path) -> None:
    """Puts the pages and their libraries in place, and removes the data of an earlier build."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    with as_file(files("asft.dashboard") / "page") as page:
        shutil.copytree(page, folder, dirs_exist_ok=True)
    vega = folder / "assets" / "vega.js"
    mark = f"// Vega, BSD-3-Clause, by vl-convert-python {version('vl-convert-python')}\n"
    if not (vega.is_file() and vega.read_text(encoding="utf-8").startswith(mark)):  # it takes seconds to make
        vega.write_text(mark + charts.library(), encoding="utf-8")


def write_index(folder: Path, **fields: Any) -> None:
    """Writes the site's index with a stamp that differs with it, and the stamp by itself for a page to look for."""
    lists = ("cells", "metrics", "failures", "experiments", "landscapes", "anchors")
    index = {**{name: [] for name in lists}, "live": False, "palette": charts.PALETTE, **fields}
    stamp = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()[:12]
    write_data(folder, "index", {**index, "version": stamp})
    write_data(folder, "version", stamp)


def fingerprint(store: Store) -> str:
    """Changes whenever a cell finishes, fails or is scored further, or a landscape or a spectrum is written."""
    entry = "[0-9a-f]" * 20  # not what stands beside one in the making, which changes all the time
    patterns = [*(f"{kind}/{entry}" for kind in ("cells", "beside", "measures")), f"failures/{entry}.json"]
    found = []
    for path in (
        path for pattern in (*patterns, "reports/anchor_*/spectrum.json") for path in store.root.glob(pattern)
    ):
        with suppress(FileNotFoundError):  # removed while we look
            found.append(f"{path} {path.stat().st_mtime_ns}")
    return "\n".join(sorted(found))
