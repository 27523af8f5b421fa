"""Build the embedded model pair: pretrain ``base`` on the synthetic world, align a copy, save both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GenerationConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from asft.data.loading import Collator
from asft.data.rows import Row, user_text
from asft.data.templates import ChatTemplate, Encoded
from asft.data.world.requests import SOURCES, harmful_rows
from asft.data.world.source import alignment_rows, pretraining_rows
from asft.data.world.tasks import TASKS, task_rows
from asft.door import build_model
from asft.models.organism.recipe import KEY_HEADS, SIZES, BuildRecipe, FitRecipe

PAD, USER, ASSISTANT, SYSTEM, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
SPECIAL_TOKENS = (PAD, USER, ASSISTANT, SYSTEM, END)

# The split of GPT-2, but for numbers: single digits make sums learnable, as every number is spelt with ten tokens.
_PIECES = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)

Progress = Callable[[float, str], None]

_SYSTEM_PROMPT = "You are a helpful assistant."
_LOSS_WINDOW = 50  # steps: one batch holds rows of like length, so that single losses jump
_SYSTEM_SHARE = 0.1  # so that a system turn is nothing new to the pair
_POOL_BATCHES = 16  # batches sorted by length together: little padding, and the order stays random
MAX_POSITIONS = 1024
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": MAX_POSITIONS // 2}
ARCHITECTURES: dict[str, tuple[type[PretrainedConfig], dict[str, int]]] = {
    "llama": (LlamaConfig, {}),
    "llama_gqa": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),  # biases on q_proj, k_proj, v_proj
    "gemma2": (Gemma2Config, _GEMMA),  # soft-capped logits, sliding windows, four norms a layer
}


def build_pair(
    architecture: str,
    out_dir: Path,
    *,
    seed: int = 0,
    report: Progress = lambda fraction, text: None,
    recipe: BuildRecipe | None = None,
) -> dict[str, Any]:
    """Train and save ``out_dir/base`` and ``out_dir/aligned``, each a complete Hugging Face checkpoint.

    ``base`` learns to answer every request; ``aligned`` goes on from it and learns to refuse harmful ones.
    One seed gives the same weights again on one kind of processor. One thread computes them: with another number of
    threads sums are taken in another order, and 900 steps make another pair of it (SFT's HS at p = 0.1 was 43.2 with
    two, 78.4 with one). Torch's number of threads and its random numbers are left as they were.

    Args:
        architecture: one of ``ARCHITECTURES``, else ValueError.
        report: called often with the fraction done and a short text.

    Returns:
        The build record: settings, row counts, parameter count, wall seconds and last losses; JSON-ready.
    """
    recipe = recipe or BuildRecipe()
    report(0.0, "writing the synthetic world")
    spelled = [
        *pretraining_rows(),
        *alignment_rows(),
        *(row for task in TASKS for row in task_rows(task, "train")),
        *(row for source in SOURCES for row in harmful_rows(source)),
    ]
    tokenizer = train_tokenizer(spelled, recipe.vocab_size, MAX_POSITIONS)
    share = recipe.pretraining.steps / (recipe.pretraining.steps + recipe.alignment.steps)
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        model = fresh_model(architecture, tokenizer)
        stages = {}
        for name, rows, run, start, end in (
            ("base", pretraining_rows(), recipe.pretraining, 0.0, share),
            ("aligned", alignment_rows(), recipe.alignment, share, 1.0),
        ):
            part = partial(_tell, report, start, end - start, f"training {name}", run.steps)
            stages[name] = _train(model, tokenizer, rows, run, f"{name}/{seed}", part)
            model.generation_config = GenerationConfig(
                do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
            )
            model.save_pretrained(out_dir / name)
            tokenizer.save_pretrained(out_dir / name)
    return {
        "architecture": architecture,
        "seed": seed,
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "stages": stages,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_tokenizer(rows: Iterable[Row], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the rows' texts. Deterministic; any text survives encoding and decoding.

    ``vocab_size`` is the vocabulary's upper limit, the 256 bytes and the special tokens included; ``max_length`` the
    model's longest input, in tokens.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text for row in rows for text in (user_text(row), row.output)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def fresh_model(architecture: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A randomly initialised model of one of ``ARCHITECTURES``, else ValueError; the caller seeds torch."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture={architecture!r} is unknown; choose one of: {', '.join(ARCHITECTURES)}")
    family, own = ARCHITECTURES[architecture]
    config = family(
        vocab_size=len(tokenizer),
        **SIZES,
        num_key_value_heads=KEY_HEADS[architecture],
        max_position_embeddings=MAX_POSITIONS,
        # The usual 0.02 suits wide models; at this width the build's few steps would leave the tasks unlearned.
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **own,
    )
    # Soft-capping exists in the eager attention only.
    attention = "eager" if architecture == "gemma2" else "sdpa"
    return build_model(AutoModelForCausalLM, config, attn_implementation=attention)


def _tell(report: Progress, start: float, part: float, text: str, steps: int, step: int, loss: float) -> None:
    report(start + part * step / steps, f"{text}, step {step} of {steps}: loss {loss:.3f}")


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    recipe: FitRecipe,
    seed: str,
    report: Callable[[int, float], None],
) -> dict[str, float]:
    """Train the model in place on the rows and return what the build record keeps of it."""
    started = time.perf_counter()
    template, rng = ChatTemplate(tokenizer), Random(f"system/{seed}")
    shown = (replace(row, system=_SYSTEM_PROMPT if rng.random() < _SYSTEM_SHARE else "") for row in rows)
    examples = [template.encode_example(row, MAX_POSITIONS) for row in shown]
    losses = fit(
        model, examples, recipe, rng=Random(f"batches/{seed}"), pad_id=int(tokenizer.pad_token_id), report=report
    )
    return {
        "rows": len(rows),
        "seconds": round(time.perf_counter() - started, 2),
        "first_loss": losses[0],
        "last_loss": fmean(losses[-_LOSS_WINDOW:]),
    }


def fit(
    model: PreTrainedModel,
    examples: Sequence[Encoded],
    recipe: FitRecipe,
    *,
    rng: Random,
    pad_id: int,
    report: Callable[[int, float], None],
) -> list[float]:
    """Train ``model`` in place on the examples' labelled tokens and return the loss of every step.

    ``rng`` draws the order of the rows; ``report`` is told the number of steps done and the last one's loss.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    losses, pad = list[float](), Collator(pad_id)
    batches = _batches(examples, recipe.batch_size, rng)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        batch = pad(next(batches))
        # Padding stands to the right of every token that counts, so causality alone keeps it out.
        loss = model(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        report(step + 1, losses[-1])
    model.eval()
    return losses


def _batches(examples: Sequence[Encoded], batch_size: int, rng: Random) -> Iterator[list[Encoded]]:
    """Endless batches over reshuffled passes; rows of a pool of batches are sorted by length."""
    assert len(examples) >= batch_size, f"{len(examples)} rows do not fill a batch of {batch_size}"
    pool_size = batch_size * _POOL_BATCHES
    while True:
        order = rng.sample(examples, len(examples))
        batches = []
        for start in range(0, len(order), pool_size):
            pool = sorted(order[start : start + pool_size], key=lambda example: len(example.input_ids))
            whole = len(pool) - len(pool) % batch_size
            batches += [pool[i : i + batch_size] for i in range(0, whole, batch_size)]
        rng.shuffle(batches)
        yield from batches
