"""Milliseconds of a training step with one thread and with two, by model size; what is best depends on the neighbours.

Forward and backward pass of Llama-style models with random weights, batches of 8 rows of 96 tokens; turn about.
"""

from __future__ import annotations

import os
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = ((128, 4, 1500), (256, 6, 4000), (512, 6, 8000), (576, 20, 30_000))  # width, layers, vocabulary
TURNS = 2


def milliseconds(model: LlamaForCausalLM, ids: torch.Tensor, threads: int, steps: int) -> float:
    """The mean of so many steps, after one that warms up."""
    torch.set_num_threads(threads)
    started = 0.0
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()
    return 1000 * (time.perf_counter() - started) / steps


print(f"load {os.getloadavg()[0]:.1f}\n| parameters | 1 thread, ms | 2 threads, ms |\n| ---: | ---: | ---: |")
for width, layers, vocabulary in SIZES:
    shape = {"hidden_size": width, "intermediate_size": 8 * width // 3, "num_attention_heads": width // 32}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, num_hidden_layers=layers, **shape))
    size, rows = network.num_parameters(), torch.randint(0, vocabulary, (8, 96))
    steps = max(2, int(2.5e7 / size))
    found = [min(milliseconds(network, rows, threads, steps) for _ in range(TURNS)) for threads in (1, 2)]
    print(f"| {size / 1e6:.1f} M | {found[0]:.0f} | {found[1]:.0f} |", flush=True)
