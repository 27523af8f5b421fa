"""What an anchor costs in time and memory, alone and shared out: python scripts/bench_anchor.py [--model llama_3_70b] …

Random pairs in the shapes of known models, a few layers deep, sharded bf16 files. Each line is processes of their own,
one thread each: they build one anchor together, shard LoRA factors as FSDP2 does, and add the penalty's gradient.
``--load`` writes whole models and loads both, for comparison. Times mean something on an idle machine only.
scripts/gpu.py times the penalty against the authors' formula.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from asft import Anchor
from asft.anchor.penalty import Penalty

SHAPES = {
    "llama_2_7b": {},  # the defaults of transformers
    "llama_3_70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
MIB = 1 << 20


def config_of(model: str, layers: int, divide: int) -> LlamaConfig:
    """The shapes of a model, every width divided."""
    shapes = {name: size // divide for name, size in SHAPES[model].items()}
    return LlamaConfig(**shapes, num_hidden_layers=layers, architectures=["LlamaForCausalLM"])


def on_meta(config: LlamaConfig) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def write_pair(folder: Path, config: LlamaConfig, targets: list[str] | None) -> None:
    """Random bf16 weights, of ``targets`` alone where they are given, four to a file."""
    shapes = {key: value.shape for key, value in on_meta(config).state_dict().items()}
    keys = [key for key in shapes if targets is None or key.split(".")[-2] in targets]
    for side in ("base", "aligned"):
        config.save_pretrained(folder / side)
        files: dict[str, str] = {}
        for start in range(0, len(keys), 4):
            file, held = f"model-{start:05d}.safetensors", keys[start : start + 4]
            weights = {key: torch.empty(shapes[key], dtype=torch.bfloat16).uniform_(-0.03, 0.03) for key in held}
            save_file(weights, folder / side / file, metadata={"format": "pt"})
            files |= dict.fromkeys(held, file)
        (folder / side / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


class Peak:
    """The most private memory that this process has held since it began, in bytes: mapped files are not counted."""

    def __init__(self) -> None:
        self.start = self.most = private()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, private())
            time.sleep(0.02)


def private() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def child(what: str, folder: Path, targets: list[str]) -> dict[str, float]:
    """One process of a line."""
    torch.set_num_threads(1)
    torch.randn(512, 512) @ torch.randn(512, 512)  # the library's own buffers are not the build's
    peak, start = Peak(), time.perf_counter()
    sides = (folder / "base", folder / "aligned")
    if what != "build":
        models = [AutoModelForCausalLM.from_pretrained(side, dtype=what) for side in sides]
        touched = sum(float(weight.detach().sum()) for model in models for weight in model.parameters())
        assert touched == touched
        return {"seconds": time.perf_counter() - start, "peak": private() - peak.start}
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{size}", rank=rank, world_size=size)
    dist.barrier()
    start = time.perf_counter()
    anchor = Anchor.build(*sides, targets, cache_dir=folder / f"cache-{size}")
    found = {"seconds": time.perf_counter() - start, "peak": peak.most - peak.start, "anchor": anchor.memory}
    model = get_peft_model(on_meta(LlamaConfig.from_pretrained(sides[0])), LoraConfig(r=8, target_modules=targets))
    mesh = init_device_mesh("cpu", (size,))
    for name, module in model.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            whole = 0.01 * torch.randn(module.weight.shape)
            module.weight = torch.nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
    before = private()
    penalty = Penalty(anchor, model)
    times = []
    for _ in range(6):
        dist.barrier()
        start = time.perf_counter()
        penalty.add_gradients(1.0)
        times.append(time.perf_counter() - start)
    found |= {"share": penalty.memory, "held": private() - before, "step": min(times[1:])}
    dist.destroy_process_group()
    return found


def line(what: str, folder: Path, targets: list[str], processes: int) -> dict[str, float]:
    """The most that any of the processes took."""
    command = [sys.executable, __file__, "--child", what, "--scratch", str(folder), "--targets", *targets]
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(processes)},
        )
        for rank in range(processes)
    ]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    return {name: max(one[name] for one in found) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="llama_2_7b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--divide", type=int, default=1, help="every width by this")
    parser.add_argument("--targets", nargs="+", default=["q_proj", "v_proj"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--load", action="store_true", help="whole models, and what loading both takes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.scratch, options.targets)))
        return
    divided = f", widths divided by {options.divide}" if options.divide > 1 else ""
    table = Table(title=f"{options.model}{divided}, {options.layers} layers, {', '.join(options.targets)}")
    for column in ("what", "seconds", "peak MiB", "anchor MiB", "share MiB", "held MiB", "step ms"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = config_of(options.model, options.layers, options.divide)
        write_pair(folder, config, None if options.load else options.targets)
        lines = [("build", count) for count in options.processes]
        lines += [("bfloat16", 1), ("float32", 1)] if options.load else []
        for what, count in lines:
            found = line(what, folder, options.targets, count)
            name = f"build, {count} processes" if what == "build" else f"load both models, {what}"
            sizes = [f"{found[key] / MIB:.0f}" if key in found else "" for key in ("peak", "anchor", "share", "held")]
            table.add_row(
                name, f"{found['seconds']:.1f}", *sizes, f"{1e3 * found['step']:.1f}" if "step" in found else ""
            )
    Console(width=110).print(table)
    print("peak: private memory while building. share: forms of the process that holds most. held: private, for them.")


if __name__ == "__main__":
    main()
