"""Two DDP processes (gloo, CPU) give the weights of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from anchor_pairs import save_pair
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("anchor_ddp_train.py")


@pytest.mark.nightly
def test_two_processes_give_the_single_process_weights(tmp_path: Path) -> None:
    save_pair(tmp_path, "llama", torch.float64)
    runs = {"one": ([], 4), "two": (["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], 2)}
    for name, (launcher, batch) in runs.items():
        command = [sys.executable, *launcher, str(SCRIPT), str(tmp_path), str(tmp_path / name), str(batch)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, timeout=300)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in runs)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert torch.allclose(tensor, two[key], rtol=1e-8, atol=1e-10), key
