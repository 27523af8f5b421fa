"""AsFT under FSDP2 beside one process, forked from one warm process. Usage: forked_shards.py PAIR OUT PROCESSES CASE…

Prints one JSON object. Accelerate takes DDP on a CPU, whatever it is told; here it is made to take FSDP2, as on GPUs.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from asft import Anchor, AsFTCallback, FullAsFTCallback
from asft.anchor.penalty import Penalty

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCH, STEPS = 4, 3
CASES: dict[str, dict[str, Any]] = {
    "q_v": {"targets": ["q_proj", "v_proj"], "gradient_accumulation_steps": 2, "max_grad_norm": 0.05},
    # rank 3 and 15 modules do not divide by 2 and 4 processes
    "all": {"targets": [*EVERY, "lm_head"], "optim": "adamw_torch"},
    "bf16": {"targets": ["q_proj", "v_proj"], "dtype": torch.bfloat16},
    "mixed": {"targets": EVERY, "bf16": True},
    "full": {"targets": EVERY, "max_grad_norm": 0.05, "gradient_accumulation_steps": 2},
    "loop": {},  # a loop of one's own; four processes are two replicas of two shards
}


def take_fsdp2_on_a_cpu() -> None:
    create = Trainer.create_accelerator_and_postprocess

    def created(trainer: Trainer) -> None:
        create(trainer)
        if trainer.args.fsdp_plugin_args or "ACCELERATE_USE_FSDP" in os.environ:
            state = trainer.accelerator.state
            state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**(trainer.args.fsdp_plugin_args or {}))
            trainer.is_fsdp_enabled = True

    Trainer.create_accelerator_and_postprocess = created


def model_of(pair: Path, full: bool, targets: list[str], dtype: torch.dtype) -> Any:
    """The aligned model, with random A and B on the targets unless all of it is to be trained."""
    model = LlamaForCausalLM.from_pretrained(pair / "aligned", dtype=dtype)
    if full:
        return model
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=3, lora_alpha=9, target_modules=targets, init_lora_weights=False))


def train(case: str, pair: Path, out: Path, processes: int) -> dict[str, Any]:
    """A few steps; the trained weights by name, and what the penalty held and told."""
    options = {"dtype": torch.float32, "optim": "sgd", "max_grad_norm": 0.0, **CASES[case]}
    targets, dtype = options.pop("targets"), options.pop("dtype")
    full = case == "full"
    model, anchor = model_of(pair, full, targets, dtype), Anchor.build(pair / "base", pair / "aligned", targets)
    callback = FullAsFTCallback(anchor, 30.0) if full else AsFTCallback(anchor, 1.0)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(out / f"{case}-{processes}"),
            per_device_train_batch_size=BATCH // processes,
            max_steps=STEPS,
            learning_rate=0.05,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            fsdp=True if processes > 1 else None,
            **options,
        ),
        train_dataset=rows(),
        callbacks=[callback],
    )
    trainer.train()
    assert callback.penalty is not None
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(isinstance(weight, DTensor) for weight in trained.values()) == (processes > 1)
    whole = {n: (w.full_tensor() if isinstance(w, DTensor) else w).detach().float() for n, w in trained.items()}
    told = [{k: v for k, v in entry.items() if k.startswith("asft/")} for entry in trainer.state.log_history]
    return {"weights": whole, "memory": callback.penalty.memory, "told": told, **sizes_of(anchor)}


def sizes_of(anchor: Anchor, copies: int = 1) -> dict[str, int]:
    return {"anchor": copies * anchor.memory, "largest": max(module.memory for module in anchor.values())}


def loop(pair: Path, processes: int) -> dict[str, Any]:
    """The same without a Trainer, every process on the same rows."""
    model = model_of(pair, False, ["q_proj", "v_proj"], torch.float32)
    anchor, shards = Anchor.build(pair / "base", pair / "aligned", ["q_proj", "v_proj"]), min(processes, 2)
    if processes > 1:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        sizes = {"shard": shards} if processes == shards else {"replicate": processes // shards, "shard": shards}
        mesh = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        for layer in [module for name, module in model.named_modules() if name.rpartition(".")[0].endswith("layers")]:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    penalty = Penalty(anchor, model)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.05)
    tokens = torch.stack([row["input_ids"] for row in rows()[:BATCH]])
    for _ in range(STEPS):
        model(input_ids=tokens, labels=tokens).loss.backward()
        penalty.add_gradients(1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    whole = {n: (w.full_tensor() if isinstance(w, DTensor) else w).detach() for n, w in trained.items()}
    told = [{"asft/penalty": penalty.norms().penalty}]
    return {"weights": whole, "memory": penalty.memory, "told": told, **sizes_of(anchor, processes // shards)}


def rows() -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(0, 600, (64, 6), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


def together(work: Callable[[int], None], processes: int) -> list[int]:
    """Forks processes that find one another, waits for them, and returns their exit statuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        if (child := os.fork()) == 0:
            try:
                launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
                launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                if processes > 1:
                    os.environ.update({name: str(value) for name, value in launched.items()})
                work(rank)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def compared(case: str, out: Path, processes: int) -> dict[str, Any]:
    one = torch.load(out / f"{case}.1.0.pt")
    several = [torch.load(out / f"{case}.{processes}.{rank}.pt") for rank in range(processes)]
    distance = max((one["weights"][n] - s["weights"][n]).abs().max().item() for n in one["weights"] for s in several)
    told = [one["told"], *(found["told"] for found in several)]
    memory = [found["memory"] for found in several]
    sizes = {name: several[0][name] for name in ("anchor", "largest")}
    return {"distance": distance, "told": told, "memory": memory, **sizes}


if __name__ == "__main__":
    torch.set_num_threads(1)  # a forked child must find no threads
    pair, out, count, cases = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    for size in (1, count):

        def work(rank: int, size: int = size) -> None:
            take_fsdp2_on_a_cpu()
            for case in cases:
                found = loop(pair, size) if case == "loop" else train(case, pair, out, size)
                torch.save(found, out / f"{case}.{size}.{rank}.pt")

        assert not any(together(work, size))
    print(json.dumps({case: compared(case, out, count) for case in cases}))
