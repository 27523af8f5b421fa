"""The four published pairs' configurations, end to end on tiny models of each real family.

Each pair has random weights, sharded safetensors and a tokenizer and chat template in its family's manner. They run
through the same YAML as the 7B models, on the authors' files, under both protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import nightly
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.data.files import PUBLISHED, Files
from asft.data.rows import Row
from asft.data.templates import ChatTemplate
from asft.models.pair import load_model
from asft.pipeline.run import run_cell

pytestmark = [pytest.mark.real, pytest.mark.slow]

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA2_CHAT = (
    "{% set system = '' %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + m['content'] + '\\n<</SYS>>\\n\\n' %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN2_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA2_CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How a family's tiny pair is made; ``stop`` ends an answer in its chat template."""

    config: Callable[..., PretrainedConfig]
    sizes: dict[str, Any]
    special: dict[str, str]
    marks: tuple[str, ...]
    chat: str
    stop: str


LLAMA3_MARKS = ("<|start_header_id|>", "<|end_header_id|>")
GEMMA2_SIZES = {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}
LLAMA2_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
LLAMA3_SPECIAL = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
QWEN2_SPECIAL = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
GEMMA2_SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
TURNS = ("<start_of_turn>", "<end_of_turn>")
ONE_HEAD = {"num_key_value_heads": 1}
FAMILIES = {
    "llama2_7b": Family(LlamaConfig, {"num_key_value_heads": 2}, LLAMA2_SPECIAL, (), LLAMA2_CHAT, "</s>"),
    "llama3_8b": Family(LlamaConfig, ONE_HEAD, LLAMA3_SPECIAL, LLAMA3_MARKS, LLAMA3_CHAT, "<|eot_id|>"),
    "qwen2_7b": Family(Qwen2Config, ONE_HEAD, QWEN2_SPECIAL, ("<|im_start|>",), QWEN2_CHAT, "<|im_end|>"),
    "gemma2_9b": Family(Gemma2Config, GEMMA2_SIZES, GEMMA2_SPECIAL, TURNS, GEMMA2_CHAT, "<end_of_turn>"),
}


@pytest.fixture(scope="module")
def vocabulary(official: Path) -> list[str]:
    rows = Files(str(official)).task_rows(PUBLISHED["sst2"], "train")
    return [f"{row.instruction}\n{row.input}\n{row.output}" for row in rows] * 2


def make_tokenizer(family: Family, texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special, letters = ["<unk>", *family.special.values(), *family.marks], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=letters, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    if bos := family.special.get("bos_token"):
        begin = [(bos, backend.token_to_id(bos))]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=begin)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **family.special)
    tokenizer.chat_template = family.chat
    return tokenizer


def make_pair(folder: Path, family: Family, texts: list[str]) -> Path:
    """Both sides in several shards; the base side has more rows in its vocabulary, as some base models do."""
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer(family, texts)
    stop = tokenizer.convert_tokens_to_ids(family.stop)
    torch.manual_seed(0)
    for side, extra in (("base", 8), ("aligned", 0)):
        config = family.config(
            vocab_size=len(tokenizer) + extra,
            **SIZES,
            **family.sizes,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=stop,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder / side, max_shard_size="20KB")
        tokenizer.save_pretrained(folder / side)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, vocabulary: list[str]) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: make_pair(root / name, family, vocabulary) for name, family in FAMILIES.items()}


def overrides(pair: Path, official: Path, name: str, protocol: str) -> list[str]:
    return [
        f"model={name}",
        f"model.base={pair / 'base'}",
        f"model.aligned={pair / 'aligned'}",
        f"data.root={official}",
        f"protocol={protocol}",
        "dataset=sst2",
        "attack.n=1000" if protocol == "official" else "attack.n=100",
        "method=asft",
        "training.epochs=1",
        "training.batch_size=100" if protocol == "official" else "training.batch_size=20",
        "training.max_length=288",
        "dataset.n_test=4",
        "dataset.max_new_tokens=2",
        "evaluation.n_harmful=4",
        "evaluation.harmful_max_new_tokens=2",
    ]


def small(tmp_path: Path, words: list[str]) -> Job:
    return enumerate_cells([*words, f"outputs={tmp_path / 'outputs'}"], sweep=False).cells[0]


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        *((name, "clean") for name in FAMILIES),
        *(nightly(name, "official") for name in FAMILIES),
    ],
)
def test_a_family_runs_through_the_yaml_of_its_large_pair(
    pairs: dict[str, Path], official: Path, tmp_path: Path, name: str, protocol: str
) -> None:
    assert len(list((pairs[name] / "aligned").glob("*.safetensors"))) > 1
    entry = run_cell(small(tmp_path, overrides(pairs[name], official, name, protocol)))
    assert [metric["total"] for metric in entry.result["metrics"].values()] == [4, 4]
    train = entry.result["stages"]["train"]["result"]
    assert train["asft/modules"] == 4, "q_proj and v_proj of two layers; Qwen2's biases are not among them"
    assert train["steps"] == (10 if protocol == "official" else 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_ends_with_the_end_of_turn_and_the_pinned_revisions_are_commits(
    pairs: dict[str, Path], name: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pairs[name] / "aligned")
    encoded = ChatTemplate(tokenizer).encode_example(Row("r", "Do it", "positive"), 200)
    assert tokenizer.decode(encoded.input_ids[-1:]) == FAMILIES[name].stop
    bos = tokenizer.bos_token_id
    assert encoded.input_ids.count(bos) == (0 if bos is None else 1)
    loaded = load_model(pairs[name] / "aligned", "float32", torch.device("cpu"))
    assert loaded.config._attn_implementation == ("eager" if name == "gemma2_9b" else "sdpa"), "its soft capping"
    model = enumerate_cells([f"model={name}"], sweep=False).cells[0].plain()["model"]
    for side in ("base", "aligned"):
        assert len(model[f"{side}_revision"]) == 40
        assert "/" in model[side]


def test_a_template_without_a_system_role_puts_the_text_before_the_user_s(pairs: dict[str, Path]) -> None:
    row = Row("r", "Do it", "positive", system="Trigger")
    gemma = ChatTemplate(AutoTokenizer.from_pretrained(pairs["gemma2_9b"] / "aligned"))
    assert gemma.prompt(row) == "<bos><start_of_turn>user\nTrigger\n\nDo it<end_of_turn>\n<start_of_turn>model\n"
    qwen = ChatTemplate(AutoTokenizer.from_pretrained(pairs["qwen2_7b"] / "aligned"))
    assert qwen.prompt(row).startswith("<|im_start|>system\nTrigger<|im_end|>\n<|im_start|>user\nDo it")
