"""How many processes share a sweep's cells out, what they tell, and how they end."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from helpers import MakeJob

from asft.cells.compose import enumerate_cells
from asft.commands import workers
from asft.commands.workers import in_workers
from asft.config import ConfigError
from asft.console import show_log

CORES = set(range(8))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Eight cores, no GPU, memory for all."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: CORES)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**40}))
    return monkeypatch


@pytest.mark.parametrize(
    ("overrides", "count", "threads"),
    [
        ([], 8, 1),
        (["device=cpu"], 8, 1),
        (["device=cuda"], 1, 8),
        (["workers=2"], 2, 1),
        (["workers=99"], 20, 1),
        (["judge=beaver_dam"], 1, 8),
        (["judge=llm", "judge.base_url=http://a/v1", "judge.model=m"], 1, 8),
        (["model.base=org/llama-7b", "model.aligned=org/llama-7b-chat"], 1, 8),
        (["model.base=org/llama-7b", "model.aligned=org/llama-7b-chat", "workers=4"], 4, 2),
        (["model.base=org/some", "model.aligned=org/other"], 1, 8),
    ],
)
def test_small_cells_are_shared_by_all_cores(
    machine: pytest.MonkeyPatch, make_job: MakeJob, overrides: list[str], count: int, threads: int
) -> None:
    assert workers.workers([make_job("workers=auto", *overrides)] * 20) == (count, threads)


def test_cells_memory_threads_and_gpus_bound_the_workers(machine: pytest.MonkeyPatch, make_job: MakeJob) -> None:
    job = make_job("workers=auto")
    assert workers.workers([job] * 3) == (3, 1)
    for text in ("4", "4,2"):  # the latter of nested loops
        machine.setenv("OMP_NUM_THREADS", text)
        assert workers.workers([job] * 20)[0] == 2
    for text in ("two", "0", "-1"):
        machine.setenv("OMP_NUM_THREADS", text)
        with pytest.raises(ConfigError, match=f"OMP_NUM_THREADS={text}: must be a number of threads"):
            workers.workers([job] * 20)
    machine.delenv("OMP_NUM_THREADS")
    machine.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 3 * 2**30}))
    assert workers.workers([job] * 20)[0] == 3
    machine.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert workers.workers([job] * 20)[0] == 1
    for device, count in ("auto", 3), ("cuda", 1):  # by itself the embedded pair is on the CPU
        embedded = enumerate_cells(["workers=auto", f"device={device}"], sweep=False).cells * 20
        assert workers.workers(embedded)[0] == count


def work(folder: Path, then: float) -> None:
    (folder / str(os.getpid())).touch()
    logging.getLogger("asft.run").info("done by %d", os.getpid())
    time.sleep(then)
    raise OSError("no room left")


def test_what_workers_log_is_shown_here(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    in_workers(2, 1, partial(work, tmp_path, 0))
    told = capfd.readouterr().err.split("\n")
    assert {f"done by {path.name}" for path in tmp_path.iterdir()} | {"no room left", ""} == set(told)
    assert len(list(tmp_path.iterdir())) == 2


def tell_gpus() -> None:
    logging.getLogger("asft.run").info("GPUs %s", os.environ.get("CUDA_VISIBLE_DEVICES"))


@pytest.mark.parametrize(
    ("listed", "count", "shares"),
    [("4,2", 3, ["2", "4", "4"]), ("0,1,2", 2, ["0,2", "1"]), (None, 2, ["0", "1"]), ("", 2, ["", ""])],
)
def test_workers_share_the_gpus(
    listed: str | None,
    count: int,
    shares: list[str],
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    in_workers(count, 1, tell_gpus, workers.gpus_for([make_job("device=cuda")]))
    assert sorted(capfd.readouterr().err.split()) == sorted([*["GPUs"] * count, *filter(None, shares)])
    assert workers.gpus_for([make_job("device=cpu")]) == [], "nobody asks for a GPU"


def test_an_interrupt_ends_the_workers(tmp_path: Path) -> None:
    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        in_workers(2, 1, partial(work, tmp_path, 600))
    assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())


def killed_or_done(folder: Path) -> str:
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    return "killed"


def test_a_killed_worker_is_told_and_the_others_return_what_they_did(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    show_log()
    assert in_workers(2, 1, partial(killed_or_done, tmp_path)) == ["done"]
    assert "a worker was ended by a signal (Killed)" in capfd.readouterr().err
