"""What is read from disk is data: whatever it holds, an entry is whole or damaged, and a command refuses or goes on."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import nightly
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from synthetic_store import write_cell, write_measure

from asft.cells.compose import Sweep, enumerate_cells
from asft.cells.job import Job
from asft.commands import plan, run, status, store
from asft.commands.progress import SweepProgress
from asft.dashboard import Site
from asft.dashboard.tables import Experiment, table_data
from asft.pipeline.run import rejudge_cell
from asft.pipeline.tracked import tracked_cell
from asft.planning.trainings import learned
from asft.report.collect import analysis_of
from asft.report.judge_notes import cells_agreement
from asft.report.writers.terminal import print_analysis
from asft.store import schemas
from asft.store.anchors import META
from asft.store.archive import export, import_archive
from asft.store.cleaning import clean, set_damaged_aside, verify
from asft.store.entries import KINDS, Store
from asft.store.errors import DamagedEntry
from asft.store.heartbeat import Beat, Heartbeat, read_beat
from asft.store.integrity import MANIFEST, describe_files, seal
from asft.store.partial import PartialRows

NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(2**63), 1e308, float("nan"), float("inf"), -1, 0])
TEXTS = st.text(max_size=9) | st.sampled_from(["", "..", "../../x", "/etc/passwd", "a" * 300, "\x1b]0;x", "\0"])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXTS, inside, max_size=4),
    max_leaves=12,
)
SCHEMAS = [value for value in vars(schemas).values() if hasattr(value, "__required_keys__")] + [Beat, schemas.Logged]
SCHEMAS += [schemas.Details, dict[str, schemas.Sha256]]


def many(examples: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


@pytest.mark.parametrize("examples", [150, nightly(20_000)])
def test_any_bytes_are_what_a_schema_says_or_damaged(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "x.json"

    @many(examples)
    @given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from(SCHEMAS))
    def check(data: bytes, schema: Any) -> None:
        file.write_bytes(data)
        for read in (schemas.read_document, lambda *of: list(schemas.read_rows(*of))):
            with contextlib.suppress(DamagedEntry):
                read(file, schema)
        assert isinstance(PartialRows(file).load(schema), dict)
        assert read_beat(file) is None

    check()


OVERRIDES = ["experiment=table2", "method=aligned,sft,asft", "attack.p=0.1"]
PLANE = ["experiment=fig1", "measure.points=3", "measure=alignment_plane", "measure.orthogonal=false"]


class Made:
    """A store with a few finished cells, and every command that reads it."""

    def __init__(self, root: Path) -> None:
        self.root, self.template = root / "outputs", root / "template"
        at = f"outputs={self.root}"
        self.scored = enumerate_cells([*OVERRIDES, at], sweep=True)
        self.measured = enumerate_cells([*PLANE, at], sweep=True)
        for job in self.scored.cells:
            write_cell(job, 3, 3, steps=2)
        grid = {"kind": "plane", "x": "a", "y": "b", "orthogonal": False, "steps": [-1.0, 0.0, 1.0]}
        for job in self.measured.cells:
            write_measure(job, 11.0, {**grid, "hs": [[1.0, 2.0, 3.0]] * 3})
        self.store = Store(self.root)
        first = self.scored.cells[0]
        self.store.record_failure("0" * 20, "no", first.plain(), "Traceback: no\n")
        self.beat = self.root / "cells" / f".{first.key}.claim.running"
        with Heartbeat(self.beat, "train", first.key):
            beat = self.beat.read_text()
        self.beat.write_text(beat)
        spectrum = self.root / "reports" / "anchor_x" / "spectrum.json"
        spectrum.parent.mkdir(parents=True)
        spectrum.write_text(json.dumps({"summary": "", "modules": [{"name": "q", "eigenvalues": [0.5]}]}))
        anchor = self.root / "anchors" / ("0" * 32)
        anchor.mkdir(parents=True)
        module = {"name": "q", "out_features": 1, "in_features": 1, "norm": 1.0, "error_bound": 0.0}
        module |= {"form": "gram", "side": "along", "file": "0.safetensors"}
        (anchor / META).write_text(json.dumps(seal({"layout": 1, "modules": [module], "files": {}})))
        Site(self.store, [], self.root / "dashboard").build()
        shutil.copytree(self.root, self.template)
        self.files = sorted(
            path.relative_to(self.root) for path in self.root.rglob("*.json*") if "dashboard" not in path.parts
        )
        self.files.append(self.beat.relative_to(self.root))

    def renew(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.template, self.root)

    def write(self, file: Path, text: str) -> None:
        """Puts the text in place, with the checksums of whoever means harm."""
        path = self.root / file
        path.write_text(text)
        manifest = path.parent / MANIFEST
        if path != manifest and manifest.exists():
            found = {**json.loads(manifest.read_text()), "files": describe_files(path.parent)}
            del found["sha256"]
            manifest.write_text(json.dumps(seal(found)))

    def looks(self) -> Iterator[tuple[Callable[[], object], bool]]:
        """Each command's look at the store, and whether it may refuse a damaged entry; others go on without it."""
        jobs, elsewhere = [*self.scored.cells, *self.measured.cells], Store(self.root.parent / "elsewhere")
        for job in jobs:
            yield partial(self.run, job), False
            yield partial(self.track, job), True
        for sweep in (self.scored, self.measured):
            yield partial(self.report, sweep), False
            yield partial(learned, sweep.cells[0]), False
        yield SweepProgress({job.key: job for job in jobs}).look, False
        yield partial(status.status, []), False
        yield partial(plan.plan, []), False
        experiments = [Experiment("table2", sweep=self.scored)]
        yield lambda: Site(self.store, experiments, self.root / "dashboard").build(), False
        for job in self.scored.cells:
            yield partial(rejudge_cell, job), True
            yield partial(self.agree, job), True
        keys = [(kind, path.name) for kind in KINDS for path in (self.root / kind).glob("[0-9a-f]*")]
        file = self.root.parent / "x.tar.gz"
        yield lambda: export(self.store, keys, file), True
        yield lambda: import_archive(elsewhere, file) if file.exists() else None, True
        yield self.verify, False
        yield lambda: clean(self.store, set(), delete=True), False

    def run(self, job: Job) -> None:
        if entry := job.find():
            run.finished_line(job, entry, "")
        else:
            run._run_job(job, wait=False)

    def track(self, job: Job) -> None:
        if entry := job.find():
            list(tracked_cell(entry, job).answers())

    def report(self, sweep: Sweep) -> None:
        table_data(analysis := analysis_of(sweep, "x"))
        print_analysis(analysis, Console(file=io.StringIO()))

    def agree(self, job: Job) -> None:
        if entry := job.find():
            cells_agreement(entry, entry)

    def verify(self) -> None:
        for kind, key, _ in verify(self.store).damaged:
            assert set_damaged_aside(self.store, kind, key)
        assert not verify(self.store).damaged


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    found = Made(tmp_path)
    monkeypatch.setattr(status, "enumerate_each", lambda *_: [found.scored])
    for command in (plan, store):
        monkeypatch.setattr(command, "enumerate_all", lambda *_: found.scored)

    def not_here(job: Any) -> None:
        raise ValueError("nothing is trained here")

    monkeypatch.setattr("asft.pipeline.run.run_cell", not_here)
    return found


def harmed(draw: Any, value: Any) -> Any:
    """The value with one thing in it gone, or something else."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        name = draw(st.sampled_from(sorted(value)))
        rest = {k: v for k, v in value.items() if k != name}
        return rest if not draw(st.integers(0, 5)) else {**rest, name: harmed(draw, value[name])}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], harmed(draw, value[place]), *value[place + 1 :]]
    return draw(JSON)


@pytest.mark.slow
@pytest.mark.parametrize("examples", [12, nightly(500)])
def test_whatever_a_stored_file_holds_commands_refuse_or_go_on(examples: int, made: Made) -> None:
    @many(examples)
    @given(st.data())
    def check(data: Any) -> None:
        made.renew()
        file = data.draw(st.sampled_from(made.files))
        text = (made.root / file).read_text()
        if file.suffix == ".jsonl":
            first, *rest = text.splitlines()
            text = "\n".join([json.dumps(harmed(data.draw, json.loads(first))), *rest, ""])
        else:
            value = harmed(data.draw, json.loads(text))
            if file.name in {MANIFEST, META} and isinstance(value, dict) and "sha256" in value:
                with contextlib.suppress(ValueError, RecursionError):
                    value = seal({k: v for k, v in value.items() if k != "sha256"})
            text = json.dumps(value)
        made.write(file, text)
        for look, refuses in made.looks():
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    look()
            except ValueError as error:
                if "written with store schema" not in str(error) and not (refuses and isinstance(error, DamagedEntry)):
                    raise

    check()


@pytest.mark.parametrize("kind", [[], {}, 3, None])
def test_a_landscape_of_a_kind_that_is_no_text_is_damaged(kind: object, tmp_path: Path) -> None:
    (tmp_path / schemas.DETAILS).write_text(json.dumps({"kind": kind, "steps": [0.0]}))
    with pytest.raises(DamagedEntry, match="kind="):
        schemas.read_document(tmp_path / schemas.DETAILS, schemas.Details)
