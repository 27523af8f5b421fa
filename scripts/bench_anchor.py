"""The anchor engine against the reference formula, the memory's speed and loading whole models.

    python scripts/bench_anchor.py [--threads 2] [--parts penalty step build]

``penalty`` times R = λ‖(I − Ĉ)BA‖² with a dense I − Ĉ under autograd (methods.md §2) beside the closed form, and
the closed form beside one read of G. ``step`` is the closed form's share of a training step of a small Llama.
``build`` is the peak memory of Anchor.build on shards of Llama-2-7B's shapes beside loading both models.
Timings mean something on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from asft import Anchor, AsFTCallback
from asft.anchor.binding import lora_factors
from asft.anchor.forms import AnchoredModule, Gram
from asft.anchor.penalty import Penalty

RANK = 8
MODULES = 8
SIDES = (1024, 2048, 4096)
GOALS = {1024: 50, 2048: 60, 4096: 150}
READ_GOAL = 1.5
STEP_GOAL = 0.03
TARGETS = ["q_proj", "v_proj"]
MIB = 1 << 20


def seconds(*actions: Callable[[], object], repeats: int) -> list[float]:
    """Wall time of each action's fastest run: what the machine can do.

    The actions take turns, so that whatever else the machine is doing slows them alike.
    """
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, own in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


class Linears(nn.Module):
    """Enough of a model for PEFT: a few side×side linears."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(side, side, bias=False) for _ in range(MODULES))


def bench_penalty(console: Console) -> None:
    """Reference under autograd, ours, and one read of G, per module at every side."""
    table = Table(title=f"Penalty and gradients, ms per module, o = i, r = {RANK}, {torch.get_num_threads()} threads")
    for column in ("o", "reference", "ours", "ratio", "goal", "error", "sum", "ours/sum", "G@v", "ours/G@v"):
        table.add_column(column, justify="right", no_wrap=True)
    for side in SIDES:
        table.add_row(*penalty_row(side))
    console.print(table)
    console.print(
        f"The reference on one module, the rest over {MODULES}, so that at 4096 no G is still in a cache when its "
        "turn comes.\nOne read of G, two ways: torch.sum(G), the bare read, and G @ v, the library's product with "
        f"one vector (ours multiplies by {RANK}).\nGoal at 4096: within {READ_GOAL}×. error: gradients, relative."
    )


def penalty_row(side: int) -> list[str]:
    """One line of the table."""
    torch.manual_seed(0)
    model = get_peft_model(Linears(side), LoraConfig(r=RANK, target_modules=[f"linears.{k}" for k in range(MODULES)]))
    factors = lora_factors(model)
    with torch.no_grad():
        for factor in factors:
            factor.b.normal_(std=0.02)
    v = torch.randn(side, side) / side
    form = Gram.of(v, "orthogonal")
    copies = [Gram(form.gram.clone(), form.direction, "orthogonal") for _ in factors]
    modules = [AnchoredModule(f.name, side, side, 1.0, g) for f, g in zip(factors, copies, strict=True)]
    penalty = Penalty(Anchor(modules), model)
    rejection = torch.eye(side) - form.direction
    a, b = factors[0].a, factors[0].b

    def reference() -> None:
        (rejection @ (b @ a)).square().sum().backward()

    def ours() -> None:
        penalty.add_gradients(1.0)

    error = gradient_error((a, b), reference, ours)
    x = torch.randn(side)

    def read() -> None:
        for one in copies:
            one.gram.sum()

    def multiply() -> None:
        for one in copies:
            one.gram @ x

    (theirs,) = seconds(reference, repeats=4 if side > 2048 else 15)
    mine, bare, product = (total / MODULES for total in seconds(ours, read, multiply, repeats=100))
    return [
        str(side),
        f"{theirs * 1e3:.1f}",
        f"{mine * 1e3:.3f}",
        f"{theirs / mine:.0f}×",
        f"≥ {GOALS[side]}×",
        f"{error:.0e}",
        f"{bare * 1e3:.3f}",
        f"{mine / bare:.2f}",
        f"{product * 1e3:.3f}",
        f"{mine / product:.2f}",
    ]


def gradient_error(parameters: tuple[Tensor, ...], reference: Callable[[], None], ours: Callable[[], None]) -> float:
    """Largest relative difference between the two gradients, float32."""
    gradients: list[list[Tensor]] = []
    for action in (reference, ours):
        for parameter in parameters:
            parameter.grad = None
        action()
        gradients.append([parameter.grad.clone() for parameter in parameters if parameter.grad is not None])
    return max(float((y - x).norm() / x.norm()) for x, y in zip(*gradients, strict=True))


class Clock(TrainerCallback):
    """Times whole steps, and what lies between two clocks in on_pre_optimizer_step."""

    def __init__(self) -> None:
        self.began = self.penalty = 0.0
        self.steps: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(time.perf_counter() - self.began)


class Tick(TrainerCallback):
    """Notes the time of each on_pre_optimizer_step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())


class Tock(Tick):
    """A second class, because the Trainer warns of two callbacks of one."""


def bench_step(console: Console, scratch: Path) -> None:
    """The callback's share of a training step, each step its own pair of timings."""
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, max_position_embeddings=128, **shape))
    model.save_pretrained(scratch / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(scratch / "aligned")
    anchor = Anchor.build(scratch / "base", scratch / "aligned", TARGETS)
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=32, target_modules=TARGETS))
    rows = [{"input_ids": ids, "labels": ids.clone()} for ids in torch.randint(0, 512, (800, 32))]
    clock, tick, tock = Clock(), Tick(), Tock()
    arguments = TrainingArguments(
        output_dir=str(scratch / "out"),
        per_device_train_batch_size=8,
        num_train_epochs=2,
        max_grad_norm=0.0,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
    )
    callbacks = [tick, AsFTCallback(anchor, 1.0), tock, clock]
    Trainer(model=adapted, args=arguments, train_dataset=rows, callbacks=callbacks).train()
    inside = statistics.median(after - before for before, after in zip(tick.times, tock.times, strict=True))
    whole = statistics.median(clock.steps)
    table = Table(title="A training step of a 4-layer Llama, d = 128, batch 8 × 32 tokens, 8 LoRA modules")
    for column in ("step without penalty ms", "penalty ms", "overhead", "goal"):
        table.add_column(column, justify="right")
    share = inside / (whole - inside)
    table.add_row(f"{(whole - inside) * 1e3:.2f}", f"{inside * 1e3:.3f}", f"{share:.1%}", f"≤ {STEP_GOAL:.0%}")
    console.print(table)


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
    parser.add_argument(
        "--parts", nargs="+", choices=["penalty", "step", "build"], default=["penalty", "step", "build"]
    )
    parser.add_argument("--layers", type=int, default=2, help="depth of the checkpoints of the build part")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        child(options.child, options.scratch)
        return
    console = Console(width=110)
    if "penalty" in options.parts:
        bench_penalty(console)
    with tempfile.TemporaryDirectory() as scratch:
        if "step" in options.parts:
            bench_step(console, Path(scratch) / "step")
        if "build" in options.parts:
            (Path(scratch) / "build").mkdir()
            bench_build(console, Path(scratch) / "build", options.layers)


if __name__ == "__main__":
    main()
