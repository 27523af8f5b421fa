"""Trains a tiny LoRA model with AsFT and saves the adapter; run plainly or under torch.distributed.run.

Usage: anchor_ddp_train.py PAIR OUTPUT BATCH_PER_PROCESS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from anchor_pairs import TARGETS, VOCABULARY, with_lora
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from asft import Anchor, AsFTCallback


def main(pair: Path, output: Path, batch: int) -> None:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, VOCABULARY, (16, 8), generator=generator)
    anchor = Anchor.build(pair / "base", pair / "aligned", TARGETS["llama"], cache_dir=pair / "cache")
    model = AutoModelForCausalLM.from_pretrained(pair / "aligned", dtype=torch.float64)
    torch.manual_seed(5)
    adapted = with_lora(model, TARGETS["llama"])
    arguments = TrainingArguments(
        output_dir=str(output / "trainer"),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=2,
        max_steps=4,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None,
        disable_tqdm=True,
        save_strategy="no",
    )
    rows = [{"input_ids": row, "labels": row.clone()} for row in ids]
    trainer = Trainer(model=adapted, args=arguments, train_dataset=rows, callbacks=[AsFTCallback(anchor, 2.0)])
    trainer.train()
    if trainer.is_world_process_zero():
        adapted.save_pretrained(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
