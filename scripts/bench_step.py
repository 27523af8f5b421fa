"""What AsFT adds to a training step: SFT and AsFT steps on the embedded pair, in turn, in one process.

Each pair of steps sees the same batch. The callback is called as the Trainer calls it, between the backward
pass and the optimiser's step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from asft import Anchor, AsFTCallback
from asft.cells.compose import enumerate_cells
from asft.console import quiet_libraries
from asft.data.base import load_data
from asft.data.loading import Collator
from asft.data.templates import ChatTemplate
from asft.pipeline.prepare import prepare_pair
from asft.training.trainer import attach_lora


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(2)
    quiet_libraries()
    job = enumerate_cells(["method=sft"], sweep=False).cells[0]
    cell = job.cell
    pair = prepare_pair(job)
    tokenizer = pair.tokenizer()
    template = ChatTemplate(tokenizer)
    rows = [template.encode_example(row, 512) for row in load_data(cell).train[: 8 * 32]]
    assert isinstance(tokenizer.pad_token_id, int)
    batches = [Collator(tokenizer.pad_token_id)(rows[start : start + 8]) for start in range(0, len(rows), 8)]
    model = attach_lora(pair.load("aligned", torch.device("cpu")), cell.training, 0)
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=cell.training.lr)
    callback = AsFTCallback(Anchor.build(pair.base, pair.aligned, cell.training.target_modules), 1.0)
    arguments = TrainingArguments(output_dir=str(Path(job.options.outputs)), use_cpu=True, report_to="none")
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(arguments, state, control, model=model, optimizer=optimiser)

    def step(batch: dict[str, torch.Tensor], anchored: bool) -> float:
        started = time.perf_counter()
        model(**batch).loss.backward()
        if anchored:
            callback.on_pre_optimizer_step(arguments, state, control, model=model)
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - started

    for index in range(20):
        step(batches[index % len(batches)], bool(index % 2))
    plain: list[float] = []
    anchored: list[float] = []
    for index in range(options.steps):
        batch = batches[index % len(batches)]
        order = (False, True) if index % 2 else (True, False)
        for with_anchor in order:
            (anchored if with_anchor else plain).append(step(batch, with_anchor))
    sft, asft = statistics.median(plain), statistics.median(anchored)
    paired = statistics.median(a - p for a, p in zip(anchored, plain, strict=True))
    Console().print(
        f"Training step, {options.steps} pairs: SFT {1e3 * sft:.2f} ms, AsFT {1e3 * asft:.2f} ms; "
        f"the penalty adds {1e3 * paired:.3f} ms, {100 * paired / sft:.1f} % of an SFT step"
    )


if __name__ == "__main__":
    main()
