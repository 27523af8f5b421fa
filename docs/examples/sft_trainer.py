"""AsFT in TRL's SFTTrainer: python sft_trainer.py BASE ALIGNED ROWS.jsonl OUT (rows have a "text")."""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from asft import Anchor, AsFTCallback

base, aligned, rows, out = sys.argv[1:]
targets = ["q_proj", "v_proj"]
anchor = Anchor.build(base, aligned, targets, cache_dir=f"{out}/anchors")
trainer = SFTTrainer(
    model=aligned,
    args=SFTConfig(out, num_train_epochs=1, save_steps=0.1, report_to=[], use_cpu=not torch.cuda.is_available()),
    train_dataset=load_dataset("json", data_files=rows, split="train"),
    peft_config=LoraConfig(r=8, lora_alpha=32, target_modules=targets),
    callbacks=[AsFTCallback(anchor, lam=1.0)],  # the one line that is new
)
trainer.train(resume_from_checkpoint=get_last_checkpoint(out))  # after a kill the same command goes on
trainer.save_model(out)
