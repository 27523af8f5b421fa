"""Sweeps as children of one warm process, and scripts that run such, as tests start them."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from asft.__main__ import main
from asft.cells.compose import enumerate_cells


def warm() -> None:
    """Makes this process one to be forked: children find all imports made, which no collection looks through."""
    import asft.commands.run  # noqa: F401

    torch.set_num_threads(1)  # a forked child must find no threads
    enumerate_cells(["method=sft"], sweep=True)
    gc.collect()
    gc.freeze()


def become_sweep(overrides: list[str], outputs: Path, told: Path, prepare: Callable[[], None]) -> NoReturn:
    """Turns a forked child into ``asft run -m``."""
    become(["run", "-m", *overrides, f"outputs={outputs}"], outputs, told, prepare)


def become(words: list[str], folder: Path, told: Path, prepare: Callable[[], None]) -> NoReturn:
    """Turns a forked child into ``asft``: its output goes to ``told``, and it ends with the command's status."""
    try:
        log = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        prepare()
        main(words)
    except SystemExit as stop:
        sys.stderr.flush()
        os._exit(int(stop.code or 0))
    finally:
        os._exit(70)


def run_script(script: Path, *arguments: str) -> dict[str, Any]:
    """Runs a script in a process of one thread and reads the JSON object that it prints last."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
