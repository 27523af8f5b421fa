"""Cells computed by two processes, as children of one warm process, so that starting them costs no imports.

Usage: forked_teams.py OUTPUTS OVERRIDES_JSON. Prints one JSON object.

Two sweeps run in one process. Then a fault strikes one of two processes in the middle of a sweep's first training:
``nan``, ``memory`` or ``kill`` process 1, ``error`` process 0. After ``kill`` the command is run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from forked import become_sweep, warm
from transformers import TrainerCallback

import asft.distributed.team
import asft.pipeline.run
from asft.distributed.team import team
from asft.store.cleaning import verify
from asft.store.entries import Store

STRUCK_STEP = 3
FAULTS = {"nan": 1, "memory": 1, "kill": 1, "error": 0}  # and the process that each strikes
# After nan the sweep goes on with its second cell, after kill the command is run again: what they end in is compared.
SWEEPS = {"nan": ["method=asft", "training=lora,full", "training.accumulation=1"], "kill": ["method=asft,lisa_aligned"]}


class Fault(TrainerCallback):
    """Strikes this process in the backward pass of step ``STRUCK_STEP``, where the other one already waits for it."""

    def __init__(self, what: str, model: torch.nn.Module) -> None:
        self.what, self.model = what, model

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == STRUCK_STEP:
            weight = next(weight for weight in self.model.parameters() if weight.requires_grad)
            weight.register_hook(self.strike)
            if self.what == "nan":
                weight.data.fill_(float("nan"))

    def strike(self, gradient: torch.Tensor) -> None:
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "memory":
            raise torch.OutOfMemoryError("injected")
        if self.what != "nan":
            raise RuntimeError("injected")

    def resume_state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_resume_state(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to take back."""


def watch_training(outputs: Path, fault: str | None) -> None:
    """Notes a digest of each process' weights after each training; the first training is struck by the fault."""
    real, struck = asft.pipeline.run.train, iter([fault])

    def train(model: Any, *arguments: Any, callbacks: list[Any], **options: Any) -> Any:
        what = next(struck, None)
        faults = [Fault(what, model)] if what and team().rank == FAULTS[what] else []
        log = real(model, *arguments, callbacks=[*callbacks, *faults], **options)
        weights = b"".join(weight.detach().numpy().tobytes() for weight in model.parameters() if weight.requires_grad)
        with (outputs / f"weights{team().rank}.txt").open("a") as file:
            file.write(hashlib.sha256(weights).hexdigest() + "\n")
        return log

    asft.pipeline.run.train = train  # type: ignore[attr-defined]


def prepare(outputs: Path, fault: str | None) -> None:
    asft.distributed.team.GRACE = timedelta(seconds=2)
    watch_training(outputs, fault)


def start(overrides: list[str], outputs: Path, processes: int, fault: str | None = None) -> list[int]:
    """Forks the processes of one ``asft run -m`` and returns their exit statuses."""
    outputs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sys.stdout.flush()
    children = []
    for rank in range(processes):
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        child = os.fork()
        if child == 0:
            if processes > 1:
                os.environ.update({name: str(value) for name, value in launched.items()})
            become_sweep(overrides, outputs, outputs / f"told{rank}.txt", lambda: prepare(outputs, fault))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def struck(fault: str, outputs: Path, overrides: list[str]) -> dict[str, Any]:
    """What a fault in the first training leaves behind, and what the same command makes of it after a kill."""
    sweep = [*overrides, *SWEEPS.get(fault, ["method=asft"])]
    codes = start(sweep, outputs, 2, fault)
    found = {
        "codes": codes,
        "failures": [json.loads(path.read_text()) for path in (outputs / "failures").glob("*.json")],
        "damaged": len(verify(Store(outputs)).damaged),
        "cells": len(list((outputs / "cells").glob("[0-9a-f]*/manifest.json"))),
    }
    if fault == "kill":
        found["again"] = start(sweep, outputs, 2)
        found["told"] = (outputs / "told0.txt").read_text()
    return found


if __name__ == "__main__":
    warm()
    where, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    for sweep in (SWEEPS["kill"], ["method=asft", "training=full", "training.accumulation=1"]):
        assert start([*options, *sweep], where / "one", 1) == [0], f"see {where}"
    print(json.dumps({fault: struck(fault, where / fault, options) for fault in FAULTS}))
