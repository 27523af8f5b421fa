"""What building an anchor costs beside loading whole models: python scripts/bench_anchor.py [--layers 2].

Peak memory and seconds of Anchor.build, and of it with a cache, on shards of Llama-2-7B's shapes, each in a process of
its own. scripts/gpu.py times the penalty and the training step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from asft import Anchor

TARGETS = ["q_proj", "v_proj"]
MIB = 1 << 20


def write_checkpoints(directory: Path, layers: int) -> None:
    """Base and aligned shards with the shapes of Llama-2-7B, ``layers`` deep, random bf16 weights."""
    config = LlamaConfig(num_hidden_layers=layers)  # the defaults are Llama-2-7B's
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in LlamaForCausalLM(config).state_dict().items()}
    for side in ("base", "aligned"):
        (directory / side).mkdir()
        config.save_pretrained(directory / side)
        files: dict[str, str] = {}
        for number, keys in enumerate(_shards(list(shapes))):
            files |= dict.fromkeys(keys, f"model-{number:05d}.safetensors")
            weights = {key: torch.empty(shapes[key], dtype=torch.bfloat16).normal_(std=0.02) for key in keys}
            save_file(weights, directory / side / f"model-{number:05d}.safetensors", metadata={"format": "pt"})
        index = {"metadata": {"total_size": sum(2 * s.numel() for s in shapes.values())}, "weight_map": files}
        (directory / side / "model.safetensors.index.json").write_text(json.dumps(index))


def _shards(keys: list[str]) -> list[list[str]]:
    return [keys[start : start + 4] for start in range(0, len(keys), 4)]


def bench_build(console: Console, scratch: Path, layers: int) -> None:
    """Peak memory in fresh processes: the build, the build into a cache, and loading both models."""
    write_checkpoints(scratch, layers)
    matrix = 4096 * 4096 * 4
    table = Table(title=f"Peak extra memory, shards of Llama-2-7B's shapes, {layers} layers, q_proj and v_proj")
    for column in ("what", "peak MiB", "output MiB", "beyond output, matrices", "seconds"):
        table.add_column(column, justify="right")
    for what in ("build", "cached build", "load both models, bf16", "load both models, fp32"):
        command = [sys.executable, __file__, "--child", what, "--scratch", str(scratch)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peak, output, elapsed = json.loads(done.stdout.splitlines()[-1])
        beyond = f"{max(peak - output, 0) / matrix:.1f}" if output else ""
        table.add_row(what, f"{peak / MIB:.0f}", f"{output / MIB:.0f}" if output else "", beyond, f"{elapsed:.1f}")
    console.print(table)
    console.print("goal: beyond the output at most three matrices of 64 MiB; a cached build keeps its output on disk.")


def child(what: str, scratch: Path) -> None:
    """Do one thing and print its peak extra memory, the bytes it holds at the end, and its time."""
    torch.randn(512, 512) @ torch.randn(512, 512)  # the library's own buffers are not the build's
    before, start = memory("VmRSS"), time.perf_counter()
    sides = (scratch / "base", scratch / "aligned")
    held = 0
    if what == "build":
        held = Anchor.build(*sides, TARGETS).memory
    elif what == "cached build":
        held = Anchor.build(*sides, TARGETS, cache_dir=scratch / "cache").memory
    else:
        dtype = torch.bfloat16 if what.endswith("bf16") else torch.float32
        models = [AutoModelForCausalLM.from_pretrained(side, dtype=dtype) for side in sides]
        for model in models:
            sum(parameter.detach().sum() for parameter in model.parameters())  # touches mapped pages
    print(json.dumps([memory("VmHWM") - before, held, time.perf_counter() - start]))


def memory(field: str) -> int:
    """Bytes that this process holds now (``VmRSS``) or held at its peak (``VmHWM``); Linux only.

    Unlike ``getrusage`` this leaves out the peak of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2, help="depth of the checkpoints of the build part")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        child(options.child, options.scratch)
        return
    with tempfile.TemporaryDirectory() as scratch:
        bench_build(Console(width=110), Path(scratch), options.layers)


if __name__ == "__main__":
    main()
