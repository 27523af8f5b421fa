"""Tiny checkpoints in the form of the published judges: a 14-label classifier and a guard that was taught a word."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

LABELS = [f"hazard_{index:02d}" for index in range(14)]
# Renders as Llama Guard's template does: the roles, the texts, and the header that the verdict follows.
GUARD_TEMPLATE = (
    "<s>[T]{% for m in messages %}{{ 'User' if m.role == 'user' else 'Agent' }}: {{ m.content }}\n{% endfor %}[V]"
)


def letters(path: Path, *, pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """A tokenizer of single characters that puts ``<s>`` in front, saved to ``path``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=pad
    )
    wrapped.save_pretrained(path)
    return wrapped


def config(labels: int = 14, *, pad: int | None = 0, width: int = 32) -> LlamaConfig:
    """Two layers, the vocabulary of :func:`letters`."""
    return LlamaConfig(
        vocab_size=100,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=pad,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=labels,
        id2label=dict(enumerate(LABELS)) if labels == 14 else None,
        problem_type="multi_label_classification",
    )


def classifier(path: Path, *, pad: int | None = 0, labels: int = 14) -> Path:
    """A random moderation model whose labels' probabilities differ much from text to text."""
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config(labels, pad=pad))
    with torch.no_grad():
        model.score.weight.mul_(40)
    model.save_pretrained(path)
    letters(path, pad="</s>" if pad == 2 else "<pad>")
    return path


def guard(path: Path) -> Path:
    """A model taught in a moment to answer ``unsafe`` and a category where the agent says ``!``, else ``safe``."""
    tokenizer = letters(path)
    tokenizer.chat_template = GUARD_TEMPLATE
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(2, width=48))
    cases = [(f"q{n}", answer) for n in range(8) for answer in ("ok", "no", "fine", "bad!", "do!", "!")]
    texts = []
    for prompt, answer in cases:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        texts.append((text, "\n\n" + ("unsafe\nS1,S9" if "!" in answer else "safe") + "</s>"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pairs = [[tokenizer(part, add_special_tokens=False)["input_ids"] for part in text] for text in texts]
    width = max(len(a) + len(b) for a, b in pairs)
    ids, labels = torch.zeros(len(pairs), width, dtype=torch.long), torch.full((len(pairs), width), -100)
    for row, (a, b) in enumerate(pairs):
        ids[row, : len(a) + len(b)] = torch.tensor(a + b)
        labels[row, len(a) : len(a) + len(b)] = torch.tensor(b)
    for _ in range(120):
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    assert loss.item() < 0.02, f"the guard did not learn its word: {loss.item()}"
    model.save_pretrained(path)
    return path
