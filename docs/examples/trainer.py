"""AsFT in a plain transformers.Trainer: python trainer.py BASE ALIGNED ROWS.jsonl OUT (rows have a "text")."""

import sys

from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from asft import Anchor, AsFTCallback

base, aligned, rows, out = sys.argv[1:]
targets = ["q_proj", "v_proj"]
arguments = TrainingArguments(out, num_train_epochs=1, save_steps=0.1, report_to=[])  # before the model, for FSDP
anchor = Anchor.build(base, aligned, targets, cache_dir=f"{out}/anchors")
tokenizer = AutoTokenizer.from_pretrained(aligned)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # Llama has none
lora = LoraConfig(r=8, lora_alpha=32, target_modules=targets)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(aligned), lora)
data = load_dataset("json", data_files=rows, split="train").map(lambda row: tokenizer(row["text"]))
trainer = Trainer(
    model=model,
    args=arguments,
    train_dataset=data.map(lambda row: {"labels": row["input_ids"]}),  # an end that is the pad token is learned, too
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    callbacks=[AsFTCallback(anchor, lam=1.0)],  # the one line that is new
)
trainer.train(resume_from_checkpoint=get_last_checkpoint(out))  # after a kill the same command goes on
trainer.save_model(out)
