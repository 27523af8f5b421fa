"""Feeds damaged archives, stored files and judges' replies to their readers, for so many minutes.

Usage: ``python scripts/fuzz.py MINUTES [SEED]``. Each reader may take what it is given or refuse it (``ValueError``);
an import may write into its store alone. Anything else is told with the input, and the exit code is 1. Prints how many
inputs each reader was given, and how many it took.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asft.judges.endpoint import read_completion
from asft.judges.llama_guard import read_reply
from asft.judges.llm_grader import read_grade
from asft.judges.llm_judge import read_verdict
from asft.store.archive import export, import_archive
from asft.store.entries import Store, write_json, write_jsonl
from asft.store.heartbeat import read_beat
from asft.store.integrity import MANIFEST, seal
from asft.store.partial import PartialRows
from asft.store.schemas import CONFIG_FILE

WORDS = [
    *(b"NaN", b"Infinity", b"1e999", b"-1", b"1" * 30, b"null", b"true", b'""', b"[]", b"{}", b"[" * 300, b"\\ud800"),
    *(b"../", b"/", b"\0", b"\xff", b"\n", b"'", b'"', b"unsafe", b"safe", b"[[5]]", b"[[unsafe]]", b"99 size=9\n"),
]
KEYS = "metrics HS FA value total interval stages train key seconds result files size sha256 choices message content"


def bent(draw: random.Random, data: bytes) -> bytes:
    """The bytes with a few flipped, put in, cut out, doubled or replaced by a word."""
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice((1, 1, 4, 12, 100, 512)))
        new = draw.choice((b"", draw.randbytes(to - at), data[at:to] * 2, draw.choice(WORDS)))
        data = data[:at] + new + data[to if draw.random() < 0.8 else at :]
    return data


def changed(draw: random.Random, value: Any) -> Any:
    """Plain data with one thing in it gone, or another."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        rest = {k: v for k, v in value.items() if k != name}
        return rest if draw.random() < 0.2 else {**rest, name: changed(draw, value[name])}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        return [*value[:at], changed(draw, value[at]), *value[at + 1 :]]
    other: list[Any] = [None, True, -1, 0, 10**400, float("nan"), 1e308, "", "x" * 300, "../x", [], {}, [[]], {"a": {}}]
    return draw.choice([*other, {draw.choice(KEYS.split()): draw.choice(other)}])


class Readers:
    """The readers, each with valid input that is bent."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.here = Store(folder / "here")
        self.entry = self.here.ensure("cells", {"a": 1}, _cell)
        self.here.ensure("pairs", {"a": 2}, _pair)
        keys = [("cells", self.entry.path.name), ("pairs", next((folder / "here" / "pairs").glob("[0-9a-f]*")).name)]
        export(self.here, keys, folder / "whole.tar.gz")
        self.tar = gzip.decompress((folder / "whole.tar.gz").read_bytes())
        self.files = {path.name: path.read_bytes() for path in self.entry.path.iterdir()}

    def archive(self) -> bytes:
        """A bent archive, or one whose cell is bent and sealed anew."""
        kind = self.draw.random()
        if kind < 0.2:
            data = bent(self.draw, (self.folder / "whole.tar.gz").read_bytes())
        elif kind < 0.6:
            data = gzip.compress(bent(self.draw, self.tar), 1)
        else:
            data = gzip.compress(self._forged(), 1)
        file, there = self.folder / "bent.tar.gz", Store(self.folder / "deep" / "there")
        file.write_bytes(data)
        shutil.rmtree(there.root.parent, ignore_errors=True)
        try:
            import_archive(there, file)
        finally:
            written = {path.name for path in self.folder.iterdir()}
            assert written <= {"here", "deep", "whole.tar.gz", "bent.tar.gz", "x.json"}, written
            found = {path.name for path in self.folder.glob("deep/*")} | {p.name for p in self.folder.glob("deep/*/*")}
            assert found <= {"there", ".import.lock", "cells", "pairs"}, found
        return data

    def manifest(self) -> bytes:
        """One file of a cell is bent, and its manifest sealed anew or not."""
        store = Store(self.folder / "deep")
        folder = store.path("cells", self.entry.path.name)
        shutil.rmtree(store.root, ignore_errors=True)
        shutil.copytree(self.entry.path, folder)
        name, sealed = self.draw.choice(list(self.files)), self.draw.random() < 0.8
        data = self._bent(name, sealed)
        (folder / name).write_bytes(data)
        (self.folder / "x.json").write_bytes(data)
        read_beat(self.folder / "x.json")
        PartialRows(self.folder / "x.json").load()
        store.find("cells", self.entry.path.name)
        store.read("cells", self.entry.path.name, whole=True)
        return data

    def reply(self) -> bytes:
        """What an endpoint, a guard or a grader may say."""
        body = {"choices": [{"message": {"content": "[[unsafe]] [[7]]"}, "finish_reason": "stop"}]}
        whole = {**body, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
        data = json.dumps(changed(self.draw, whole) if self.draw.random() < 0.5 else whole).encode()
        data = bent(self.draw, data) if self.draw.random() < 0.7 else data
        found = read_completion(data)
        text = found.text if found else data.decode(errors="replace")
        for read in (read_reply, read_grade, read_verdict):
            read(text)
        if found is None:
            raise ValueError("no reply")
        return data

    def _bent(self, name: str, sealed: bool) -> bytes:
        data = self.files[name]
        if name != MANIFEST or not sealed:
            return bent(self.draw, data)
        value = changed(self.draw, {k: v for k, v in json.loads(data).items() if k != "sha256"})
        return json.dumps(seal(value) if isinstance(value, dict) else value).encode()

    def _forged(self) -> bytes:
        file = io.BytesIO()
        bent_one = self.draw.choice(list(self.files))
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, data in self.files.items():
                data = self._bent(name, True) if name == bent_one else data
                info = tarfile.TarInfo(f"cells/{self.entry.path.name}/{name}")
                if self.draw.random() < 0.1:
                    info.type = self.draw.choice((b"1", b"2", b"3", b"5", b"6", b"S", b"L", b"g"))
                    info.linkname = "../../../../x"
                if self.draw.random() < 0.1:
                    info.pax_headers = {"path": "../x", "size": self.draw.choice(("-1", "9" * 30, "x"))}
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return file.getvalue()


def _pair(folder: Path) -> dict[str, Any]:
    (folder / "weights").write_text("w" * 99)
    return {}


def _cell(folder: Path) -> dict[str, Any]:
    named = {"name": "x"}
    parts = dict.fromkeys(("model", "protocol", "judge", "jailbreak", "backend", "method"), named)
    config = {**parts, "dataset": {**named, "n_test": 1, "max_new_tokens": 1}, "device": "cpu", "seed": 0}
    config |= {"attack": {"source": "x", "p": 0.1, "n": 1}, "training": {**named, "lr": 0.1}}
    write_json(folder / CONFIG_FILE, {**config, "evaluation": {"n_harmful": 1, "harmful_max_new_tokens": 1}})
    row = {"id": "a", "prompt": "b", "gold": "c", "answer": "d", "credit": 1.0, "flagged": True, "details": {"x": [1]}}
    write_jsonl(folder / "HS.jsonl", [row] * 3)
    metric = {"value": 100.0, "total": 3, "count": 3, "interval": [1.0, 100.0, "Wilson"], "label": "", "about": ""}
    metric |= {"lower_is_better": True, "told": {"judge": {"members": {"a": {}}}}, "file": "HS.jsonl"}
    stage = {"key": "0" * 20, "seconds": 1.0, "peak_memory_mb": 1.0, "result": {"steps": 3, "loss": 0.1}}
    return {"metrics": {"HS": metric}, "stages": {"train": stage}}


def main(minutes: float, seed: int) -> int:
    """Fuzzes and returns how many inputs were met by anything but a refusal."""
    draw, found, counts = random.Random(seed), 0, Counter[str]()
    folder = Path(tempfile.mkdtemp())
    readers = Readers(folder, draw)
    works: dict[str, Callable[[], bytes]] = {"archive": readers.archive, "manifest": readers.manifest}
    works["reply"] = readers.reply
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        name, state = draw.choice(list(works)), draw.getstate()
        try:
            works[name]()
            counts[f"{name} taken"] += 1
        except ValueError:
            counts[f"{name} refused"] += 1
        except BaseException:
            found += 1
            print(name, hash(state), traceback.format_exc(), sep="\n")
            if not isinstance(sys.exception() or Exception(), Exception):
                raise
    shutil.rmtree(folder)
    print(f"{sum(counts.values())} inputs, {found} met by anything but a refusal: {dict(sorted(counts.items()))}")
    return found


if __name__ == "__main__":
    sys.exit(min(1, main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
