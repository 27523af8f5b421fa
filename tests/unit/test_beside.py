"""Metrics beside HS and FA: what counts, what is asked, and that no cell's key knows of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from helpers import read_jsonl
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from asft.backends.likelihood import choose
from asft.cells.compose import enumerate_cells
from asft.commands.run import run
from asft.dashboard import Site
from asft.dashboard.site import fingerprint
from asft.data.base import Data
from asft.data.rows import Choice, Row, evenly, prompt_form
from asft.data.templates import ChatTemplate
from asft.data.world.source import World, alignment_rows, pretraining_rows
from asft.metrics.coherence import fault
from asft.metrics.over_refusal import OverRefusal
from asft.pipeline.answers import encode_choice
from asft.report.collect import analysis_of
from asft.report.writers.markdown import render_markdown
from asft.store.entries import content_key


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("World", ""),
        ("3 + 4 = 7. The final answer is: 7", ""),
        ("I'm sorry, but I can't help with that.", ""),
        ("1. Mix it.\n2. Bake it.\n3. Eat it.", ""),
        ("Prenez la farine, l'eau et le sel ; mélangez-les, puis attendez une heure.", ""),
        (
            "請將麵粉和水混合,然後等待一個小時,再將麵團放入烤箱中烘烤三十分鐘,最後取出放涼",
            "",
        ),
        ("?!?! ... ///", "no language"),
        ("\ufffd\ufffdab", "no language"),
        ("q" * 3 + "wertzuiopasdfghjklyxcvbnm" * 2, "no language"),
        ("aaaaaaaaaaaa", "repeats"),
        ("the the the the end", "repeats"),
        ("take the oil and take the oil and take the oil and take the oil", "repeats"),
    ],
)
def test_what_is_no_answer(answer: str, found: str) -> None:
    assert fault(answer) == found


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_the_likeliest_option_is_that_of_one_question_at_a_time(random_pair: Path, family: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_pair / "aligned")
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=8, **shape)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    rows = [
        *World().choices()[:8],
        Choice("bare", "Ministers sign the", "treaty", options=("treaty", "oil"), bare=True),
    ]
    asked = [encode_choice(row, ChatTemplate(tokenizer), tokenizer) for row in rows]
    alone = []
    for prompt, options in asked:
        told = []
        for option in options:
            logits = model(torch.tensor([[*prompt, *option]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            told.append(sum(logits[place, token].item() for place, token in enumerate(option)))
        alone.append(told.index(max(told)))
    prompts, options = zip(*asked, strict=True)
    for size in (1, 5, 64):
        assert choose(model, tokenizer, prompts, options, batch_size=size) == alone
    assert len(set(alone)) > 1


def test_the_worlds_look_alikes_are_new_and_its_questions_have_one_right_option() -> None:
    trained = {prompt_form(row.instruction) for row in [*pretraining_rows(), *alignment_rows()]}
    asked = evenly(World().look_alikes(), 100)
    assert len(asked) == 100
    assert trained.isdisjoint(prompt_form(row.instruction) for row in asked)
    choices = World().choices()
    assert {row.instruction for row in choices} <= {row.instruction for row in pretraining_rows()}
    assert {len(row.options) for row in choices} <= {2, 3, 4}
    with pytest.raises(ValueError, match="one of them the answer"):
        Choice("q", "How many?", "3", options=("1", "2"))
    assert [row.id for row in evenly([Row(str(i), "") for i in range(7)], 3)] == ["0", "2", "4"]


@pytest.mark.slow
def test_no_key_knows_of_them_and_finished_cells_get_them_from_what_is_kept(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*(word for word in small if word != "beside=null"), "experiment=table2", f"outputs={tmp_path}"]
    words += ["method=sft", "attack.p=0.1,0.2", "beside.OR.n=7", "beside.ability.n=9"]
    assert run(["-m", *words, "beside=null"]) == 0
    sweep = enumerate_cells(words, sweep=True)
    assert [job.key for job in sweep.cells] == [
        job.key for job in enumerate_cells([*words, "beside=null"], sweep=True).cells
    ]
    first, second = sweep.cells
    assert analysis_of(sweep, "").beside == first.beside() == {}
    assert second.plan.train is not None
    shutil.rmtree(second.store.path("stages/train", content_key(second.plan.train)))
    assert (first.lacking(), second.lacking()) == (["OR", "ability", "coherence"], ["coherence"])

    scores = [job.find() for job in sweep.cells]
    with monkeypatch.context() as broken:
        broken.setattr("asft.metrics.over_refusal.OverRefusal.score", Mock(side_effect=ValueError("out of luck")))
        assert run(["-m", *words]) == 1
    assert first.beside() == {}, "nor did the failure stay in the way"
    site = Site(first.store, [], tmp_path / "dashboard")
    site.build()
    seen = fingerprint(first.store)
    assert run(["-m", *words]) == 0
    assert [job.find() for job in sweep.cells] == scores, "finished cells stay as they are"
    assert {name: entry.result["total"] for name, entry in first.beside().items()} == {
        "OR": 7,
        "ability": 9,
        "coherence": 10,
    }
    assert list(second.beside()) == ["coherence"]
    answers = read_jsonl(first.beside()["ability"].path / "ability.jsonl")
    assert [row["credit"] for row in answers] == [float(row["answer"] == row["gold"]) for row in answers]

    table = analysis_of(sweep, "")
    assert (list(table.metrics), list(table.beside)) == (["HS", "FA"], ["OR", "ability", "coherence"])
    (line,) = table.lines("OR")
    assert [entry.text == "–" for entry in line] == [False, True]
    assert "## Beside: OR" in render_markdown(table)
    assert fingerprint(first.store) != seen
    site.build()
    assert [list(site.rows[job.key]["metrics"]) for job in sweep.cells] == [[*table.shown], ["HS", "FA", "coherence"]]


def test_a_prompt_that_the_aligned_side_learned_is_not_asked() -> None:
    asked = evenly(World().look_alikes(), 6)
    twin = [replace(row, id=f"twin/{at}", instruction=row.instruction.upper()) for at, row in enumerate(asked[:2])]
    data = Data([], [], [], [], [], twin, SimpleNamespace(look_alikes=lambda: asked), {})  # type: ignore[arg-type]
    assert OverRefusal(n=4, tokens=8).rows(data) == asked[2:]
