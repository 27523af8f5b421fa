"""Damage is seen, named, set aside and computed anew; what a worker says of itself is true."""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from asft.store.entries import Entry, Store, content_key
from asft.store.errors import DamagedEntry, DiskFull, OutOfStep
from asft.store.heartbeat import STALE, read_beat, tell
from asft.store.integrity import MANIFEST
from asft.store.meter import PeakMemory
from asft.store.schemas import LARGEST

KEY = content_key({"a": 1})


def produce(folder: Path) -> dict[str, int]:
    (folder / "deep").mkdir()
    (folder / "deep" / "rows.jsonl").write_text('{"a": 1}\n' * 9)
    return {"value": 1}


def entry(root: Path) -> Entry:
    return Store(root).ensure("pairs", {"a": 1}, produce)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_score(path: Path) -> None:
    path.write_text(path.read_text().replace('"value": 1', '"value": 3'))


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": ("deep/rows.jsonl", lambda path: os.truncate(path, 7), "has 7 bytes, 81 were written"),
    "missing": ("deep/rows.jsonl", Path.unlink, "is missing"),
    "bit flip": ("deep/rows.jsonl", flip, "SHA-256"),
    "half a manifest": (MANIFEST, lambda path: os.truncate(path, 40), "is not JSON"),
    "a folder": (MANIFEST, as_folder, "is no plain file"),
    "a pipe": (MANIFEST, as_pipe, "is no plain file"),
    "bottomless": (MANIFEST, lambda path: path.write_text('{"a":' * 10**5), "recursion limit"),
    "no number": (MANIFEST, lambda path: path.write_text('{"files": NaN}'), "holds a number that is not finite"),
    "too large a number": (MANIFEST, lambda path: path.write_text("1" * 99), "or too large"),
    "too large a file": (MANIFEST, lambda path: os.truncate(path, LARGEST + 1), "is larger than 32 MiB"),
    "no manifest": (MANIFEST, Path.unlink, "is missing"),
    "other manifest": (MANIFEST, lambda path: path.write_text("[1]"), "should be a valid dictionary"),
    "manifest bytes": (MANIFEST, lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not JSON"),
    "no checksums": (MANIFEST, lambda path: path.write_text('{"schema": 1}'), "files: Field required"),
    "flipped score": (MANIFEST, flip_score, "SHA-256"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_set_aside_and_computed_anew(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, harm, reason = DAMAGES[name]
    first = entry(tmp_path)
    harm(first.path / file)
    store = Store(tmp_path)
    with pytest.raises(DamagedEntry, match=reason) as caught:
        store.read("pairs", KEY, whole=True)
    assert file in str(caught.value)
    assert store.find("pairs", KEY, whole=True) is None
    with caplog.at_level(logging.WARNING, "asft"):
        again = entry(tmp_path)
    assert again.result == {"value": 1}
    assert store.find("pairs", KEY, whole=True) is not None
    assert (tmp_path / "damaged" / "pairs" / f"{KEY}-1").is_dir()
    assert file in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("name", [name for name in DAMAGES if name != "bit flip"])
def test_a_first_look_sees_all_but_a_flipped_bit(name: str, tmp_path: Path) -> None:
    file, harm, reason = DAMAGES[name]
    harm(entry(tmp_path).path / file)
    store = Store(tmp_path)
    assert store.find("pairs", KEY) is None
    assert reason in (store.damage("pairs", KEY) or "")


def test_a_second_damage_does_not_overwrite_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        flip(entry(tmp_path).path / "deep" / "rows.jsonl")
    entry(tmp_path)
    assert sorted(path.name for path in (tmp_path / "damaged" / "pairs").iterdir()) == [f"{KEY}-1", f"{KEY}-2"]


def test_a_damaged_failure_file_is_no_crash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.record_failure(KEY, "no", {}, "")
    (tmp_path / "failures" / f"{KEY}.json").write_text("{")
    assert "unknown: damaged" in (store.failure(KEY) or "")


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    def full(folder: Path) -> dict[str, int]:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match=r"outputs=.*no room left for pairs/.*finished stages are kept"):
        Store(tmp_path).ensure("pairs", {"a": 1}, full)
    assert [path for path in (tmp_path / "pairs").iterdir() if path.is_dir()] == []


def test_a_full_disk_in_one_of_several_processes_still_ends_the_program(tmp_path: Path) -> None:
    """safetensors' words for a full disk, which would make it a mere failure of the cell."""

    def full(folder: Path) -> dict[str, int]:
        raise OutOfStep("process 0 could not go on: No space left on device (os error 28)")

    with pytest.raises(OutOfStep):
        Store(tmp_path).ensure("pairs", {"a": 1}, full)


def test_while_an_entry_is_made_its_worker_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asft.store.heartbeat.EVERY", 0.05)
    store = Store(tmp_path)
    seen = []

    def watched(folder: Path) -> dict[str, int]:
        tell(3, 9, "step")
        deadline = time.monotonic() + 20
        while (beat := store.running("pairs", KEY)) is None or beat.done != 3:
            assert time.monotonic() < deadline, "no beat came"
            time.sleep(0.05)
        seen.append(beat)
        return {}

    store.ensure("pairs", {"a": 1}, watched)
    (beat,) = seen
    assert (beat.pid, beat.host, beat.progress) == (os.getpid(), socket.gethostname(), "pairs step 3 of 9")
    assert store.running("pairs", KEY) is None


def test_a_dead_process_and_a_silent_host_are_not_running(tmp_path: Path) -> None:
    path = tmp_path / ".k.running"
    born = psutil.Process().create_time()
    beat = {"host": socket.gethostname(), "pid": os.getpid(), "born": born, "stage": "train"}
    beat["started"] = "2026-01-01T00:00:00.000+00:00"
    path.write_text(json.dumps(beat))
    assert read_beat(path) is not None
    for change in ({"pid": 2**22 + 1}, {"born": born - 60}, {"started": "x"}, {"born": None}):
        path.write_text(json.dumps({**beat, **change}))
        assert read_beat(path) is None, change
        dead = change.keys() <= {"pid", "born"} and None not in change.values()
        assert (read_beat(path, alive=False) is not None) is dead, change
    path.write_text(json.dumps({**beat, "host": "elsewhere"}))
    assert read_beat(path) is not None
    os.utime(path, (time.time() - STALE - 1,) * 2)
    assert read_beat(path) is None
    path.write_text("{")
    assert read_beat(path) is None


def test_peak_memory_is_that_of_the_block() -> None:
    with PeakMemory() as large:
        with mmap.mmap(-1, 96 * 1024**2) as block:  # given back at once, whatever the allocator keeps
            block[::4096] = b"x" * len(block[::4096])
        with PeakMemory() as small:
            pass
    assert large.host_mb > small.host_mb + 60


def test_the_peak_of_every_gpu_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {0: 2**20, 1: 2**21}
    for name, found in {
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "max_memory_allocated": peaks.get,
        "reset_peak_memory_stats": lambda device=0: peaks.update({device: 0}),
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", found)
    with PeakMemory() as memory:
        peaks[0] = 2**20
    assert memory.gpu_mb == 1
