"""Sharing a batch out to processes, and what several processes refuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers import MakeJob
from torch.utils.data import BatchSampler

from asft import cli
from asft.cells.compose import enumerate_cells
from asft.commands.run import _check_together
from asft.config import ConfigError, TrainingConfig
from asft.data.loading import Collator, DealtBatches, EncodedRows, EpochOrder
from asft.data.templates import IGNORED, Encoded
from asft.distributed.team import Team, joined
from asft.models import pair
from asft.models.pair import resolve_device
from asft.planning.ahead import refuse
from asft.training.trainer import train


class Second(Team):
    """The second of two processes."""

    rank = 1
    size = 2
    local_rank = 1


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_shares_of_a_batch_are_the_batch(size: int) -> None:
    """Nine rows in batches of four: the last batch has one row, so some processes have none of it."""
    rows, blank = 9, 9
    whole = list(BatchSampler(EpochOrder(rows, 0), 4, drop_last=False))
    shares = [
        list(DealtBatches(BatchSampler(EpochOrder(rows, 0), 4, drop_last=False), r, size, blank)) for r in range(size)
    ]
    assert all(len(share) == len(whole) for share in shares), "every process takes part in every step"
    for batch, *dealt in zip(whole, *shares, strict=True):
        assert sorted(row for share in dealt for row in share if row != blank) == sorted(batch)
        assert all(share == [blank] or blank not in share for share in dealt)
        assert sum(share == [blank] for share in dealt) == max(0, size - len(batch))


def test_a_blank_row_has_no_label() -> None:
    rows = EncodedRows([Encoded([5, 6], [IGNORED, 6])])
    assert len(rows) == 1
    batch = Collator(0)([rows[1]])
    assert batch["input_ids"].shape == (1, 1)
    assert (batch["labels"] == IGNORED).all()


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    for device, expected in ("auto", "cpu"), ("cuda", "cuda"):
        (embedded,) = enumerate_cells([f"device={device}"], sweep=False).cells
        assert resolve_device(embedded.device) == torch.device(expected)
    with joined(Second()):
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
        assert resolve_device("cpu") == torch.device("cpu")


def test_a_gpu_that_torch_does_not_see_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    pair._tell_unseen_gpu.cache_clear()
    assert [resolve_device(name).type for name in ("cpu", "auto", "auto")] == ["cpu"] * 3
    assert caplog.text.count("device=auto: nvidia-smi is here, but torch sees no GPU") == 1


def test_what_several_processes_cannot_do_is_refused(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    plain, spread = make_job("device=cpu"), make_job("model.device_map=auto")
    with joined(Second()):
        with pytest.raises(ConfigError, match="hydra/launcher=workers: starts processes of its own"):
            _check_together("workers", [plain])
        with pytest.raises(ConfigError, match=r"model.device_map=auto: spreads one model over GPUs"):
            _check_together("basic", [spread])
        with pytest.raises(ConfigError, match="device=auto: 2 processes share 1 GPUs; start 1"):
            _check_together("basic", [make_job()])
        _check_together("basic", [plain])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "asft run shards no training"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "number formats are training.autocast and model.dtype"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "no training is compiled"),
    ],
)
def test_what_a_launcher_would_change_is_refused_in_one_process_too(
    name: str, value: str, message: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainingConfig("lora", lr=1, epochs=1, batch_size=1)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}={value}.*{message}"):
        refuse([make_job("method=sft")])
    with pytest.raises(ConfigError, match=message):
        train(Mock(), [], training, seed=0, pad_token=0, device=torch.device("cpu"), folder=Path())
    monkeypatch.setenv(name, {"true": "false"}.get(value, "NO"))
    refuse([make_job("method=sft")])


def test_only_run_works_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "experiment=table2"])
    assert stop.value.code == 2
    assert "only asft run works in several processes (2 were started)" in capsys.readouterr().err
