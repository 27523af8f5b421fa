"""Whole sweeps as children of one warm process, so that starting one twenty times costs no imports.

Usage: forked_sweeps.py OUTPUTS OVERRIDES_JSON ('kill NUMBER' | crowd | limited | tmpfs)... Prints a JSON object by way.

``kill`` runs a sweep undisturbed, then kills sweeps at so many random moments, every other one soon after a training
has saved a checkpoint, and starts each again; ``crowd`` runs one sweep in three processes at once; ``limited`` runs one
whose files may not grow beyond a few kilobytes and ``tmpfs`` one on a file system of a few hundred (mounting it takes
root's rights), then both once more with room.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forked import become_sweep, warm

import asft.pipeline.run
from asft.store.cleaning import verify
from asft.store.entries import KINDS, Store
from asft.store.integrity import MANIFEST

CROWD = 3
FILE_LIMIT = 9_000  # bytes; row files and what Hydra writes of a job are smaller, an adapter is larger
SHORTER = {"kill": [], "crowd": ["attack.n=24"], "limited": ["attack.n=24"], "tmpfs": ["attack.n=24"]}
DISK_LIMIT = "256k"  # the first cells' stages fit, the last ones' do not


def start(
    overrides: list[str], outputs: Path, prepare: Callable[[], None] = lambda: None, told: Path | None = None
) -> int:
    """Forks a child that runs the sweep as ``asft run -m`` does, and returns its process id."""
    outputs.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        become_sweep(overrides, outputs, told or outputs / "told.txt", prepare)
    return child


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def entries(outputs: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Name, manifest and the manifest's time of every finished entry."""
    for kind in KINDS:
        for path in sorted((outputs / kind).glob(f"[0-9a-f]*/{MANIFEST}")):
            yield f"{kind}/{path.parent.name}", json.loads(path.read_text()), path.stat().st_mtime_ns


def times(outputs: Path) -> dict[str, int]:
    return {name: time for name, _, time in entries(outputs)}


def outcome(outputs: Path) -> dict[str, Any]:
    """Scores of every cell and the digest of every adapter."""
    found: dict[str, Any] = {}
    for name, manifest, _ in entries(outputs):
        if name.startswith("cells/"):
            found[name] = manifest["result"]["metrics"]
        if "adapter_model.safetensors" in manifest["files"]:
            found[name] = manifest["files"]["adapter_model.safetensors"]["sha256"]
    return found


def wait(child: int, seconds: float, for_checkpoint: Path | None = None) -> bool:
    """Waits so long, from the moment that a training has saved a checkpoint; returns whether the child ended."""
    began = None if for_checkpoint else time.monotonic()
    while began is None or time.monotonic() - began < seconds:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        if began is None and for_checkpoint and saved(for_checkpoint):
            began = time.monotonic()
        time.sleep(0.002)
    return False


def end(child: int, *, by_hand: bool) -> int:
    """Kills a sweep, or presses Ctrl-C five times; returns whether a line was due."""
    if not by_hand:
        os.kill(child, signal.SIGKILL)
    for _ in range(5 * by_hand):
        os.kill(child, signal.SIGINT)
        time.sleep(0.01)
    return int(finish(child) == 130)


def saved(outputs: Path) -> bool:
    return any((outputs / "stages" / "train").glob(f".*.resume/checkpoint-*/{MANIFEST}"))


def kill(outputs: Path, overrides: list[str], total: int) -> dict[str, Any]:
    rng = random.Random(20)
    began = time.monotonic()
    assert finish(start(overrides, outputs / "undisturbed")) == 0
    length = time.monotonic() - began
    wanted = outcome(outputs / "undisturbed")
    kills, interrupted, rounds, recomputed, partly = 0, 0, 0, [], 0
    while kills < total:
        folder = outputs / f"round{rounds}"
        rounds += 1
        while True:
            before = times(folder)
            child = start(overrides, folder)
            delay = rng.uniform(0, length) if kills % 2 else rng.uniform(0, 0.1)
            done = wait(child, delay, None if kills % 2 else folder) if kills < total else wait(child, float("inf"))
            length *= 0.7 if done else 1.1  # a sweep that goes on has less to do: kills must keep hitting it
            if not done:
                interrupted += end(child, by_hand=kills % 3 == 1)
                kills += 1
                partly += saved(folder)
            after = times(folder)
            recomputed += [name for name, time in before.items() if after.get(name) != time]
            if done:
                break
        assert outcome(folder) == wanted, (folder, outcome(folder), wanted)
        assert not verify(Store(folder)).damaged
    return {
        "kills": kills,
        "interrupted": interrupted,
        "told": "".join(path.read_text() for path in outputs.glob("round*/told.txt")),
        "rounds": rounds,
        "recomputed": recomputed,
        "cells": sum(name.startswith("cells/") for name in wanted),
        "kills_between_checkpoints": partly,
    }


def crowd(outputs: Path, overrides: list[str]) -> dict[str, Any]:
    """Each training adds a line; lines are counted by the stage that was trained."""
    lines = outputs / "trained.txt"
    real = asft.pipeline.run.train

    def counted(*arguments: Any, **options: Any) -> Any:
        with lines.open("a") as file:
            file.write(f"{options['folder'].name} {os.getpid()}\n")
        return real(*arguments, **options)

    asft.pipeline.run.train = counted
    codes = [finish(child) for child in [start(overrides, outputs / "shared") for _ in range(CROWD)]]
    asft.pipeline.run.train = real
    trained = [line.split() for line in lines.read_text().splitlines()]
    return {
        "codes": codes,
        "trained": dict(Counter(stage for stage, _ in trained)),
        "workers": len({worker for _, worker in trained}),
        "cells": sum(name.startswith("cells/") for name in outcome(outputs / "shared")),
    }


def limited(outputs: Path, overrides: list[str]) -> dict[str, Any]:
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, resource.RLIM_INFINITY))

    folder = outputs / "full"
    return _with_and_without_room(folder, overrides, no_room, lambda: None)


def tmpfs(outputs: Path, overrides: list[str]) -> dict[str, Any]:
    folder = outputs / "full"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_LIMIT}", "tmpfs", str(folder)], check=True)
    grow = ["mount", "-o", "remount,size=64m", str(folder)]
    try:
        return _with_and_without_room(folder, overrides, lambda: None, lambda: subprocess.run(grow, check=True))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _with_and_without_room(
    folder: Path, overrides: list[str], prepare: Callable[[], None], make_room: Callable[[], object]
) -> dict[str, Any]:
    code = finish(start(overrides, folder, prepare, log := folder.with_name("told.txt")))
    found, before = verify(Store(folder)), times(folder)
    make_room()
    again = finish(start(overrides, folder))
    return {
        "code": code,
        "told": log.read_text(),
        "damaged": found.damaged,
        "whole": found.whole,
        "again": again,
        "recomputed": [name for name, time in before.items() if times(folder)[name] != time],
        "cells": sum(name.startswith("cells/") for name in outcome(folder)),
    }


if __name__ == "__main__":
    warm()
    where, settings, *ways = sys.argv[1:]
    told = {}
    for way in ways:
        what, *numbers = way.split()
        disturb = {"kill": kill, "crowd": crowd, "limited": limited, "tmpfs": tmpfs}[what]
        told[way] = disturb(Path(where) / what, [*json.loads(settings), *SHORTER[what]], *map(int, numbers))
    print(json.dumps(told))
