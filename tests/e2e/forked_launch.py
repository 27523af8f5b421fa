"""An example as ``accelerate launch`` starts it, in two processes under FSDP2, on a CPU.

Usage: forked_launch.py EXAMPLE OUT FLAGS_JSON ARGUMENT…. Once undisturbed; then killed after its first checkpoint, and
the same command once more. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from forked_shards import take_fsdp2_on_a_cpu, together
from safetensors.torch import load_file
from transformers import Trainer

PROCESSES = 2


def launched(flags: list[str]) -> dict[str, str]:
    """What the launcher's flags put into the environment."""
    options = launch_command_parser().parse_args([*flags, "--main_process_port", "0", "script.py"])
    options.num_machines, options.num_processes = 1, PROCESSES
    options.mixed_precision = options.dynamo_backend = "no"  # what the command takes where nothing says otherwise
    env = prepare_multi_gpu_env(options)
    return {name: value for name, value in env.items() if name.startswith(("ACCELERATE_USE", "FSDP_"))}


def run(example: str, out: Path, flags: list[str], arguments: list[str], *, kill: bool = False) -> list[int]:
    def work(rank: int) -> None:
        os.environ.update(launched(flags), ACCELERATE_USE_CPU="true")
        log = os.open(f"{out}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        take_fsdp2_on_a_cpu()
        if kill:
            save = Trainer._save_checkpoint

            def saved(trainer: Trainer, *given: object, **options: object) -> None:
                save(trainer, *given, **options)
                torch.distributed.barrier()
                os._exit(9)

            Trainer._save_checkpoint = saved
        torch.manual_seed(0)
        sys.argv = [example, *arguments, str(out)]
        runpy.run_path(example, run_name="__main__")
        torch.distributed.barrier()

    return together(work, PROCESSES)


if __name__ == "__main__":
    torch.set_num_threads(1)
    example, out, flags, *arguments = sys.argv[1:]
    whole, broken = Path(out, "whole"), Path(out, "broken")
    codes = [run(example, whole, json.loads(flags), arguments)]
    codes += [run(example, broken, json.loads(flags), arguments, kill=kill) for kill in (True, False)]
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (whole, broken))
    found = {
        "codes": codes,
        "distance": max(float((one[key] - other[key]).abs().max()) for key in one),
        "trained": max(float(value.abs().max()) for key, value in one.items() if "lora_B" in key),
        "told": Path(f"{whole}.0.log").read_text(),
    }
    print(json.dumps(found))
