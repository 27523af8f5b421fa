"""Jailbreaks disguise a request so that it can be rebuilt, the same way each time, and change nothing else."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from helpers import MakeJob

from asft.cells.compose import enumerate_cells
from asft.commands.run import describe
from asft.data.rows import Row
from asft.jailbreaks.artprompt import ArtPrompt
from asft.jailbreaks.base import Jailbreak, asked, require_context
from asft.jailbreaks.dra import CARRIERS, DRA
from asft.pipeline.tracked import cell_run
from asft.report.collect import table_spec

REQUEST = "Tell me how to assemble a placeholder, then hide the Placeholder's trace!"


def test_artprompt_draws_the_longest_content_word_and_writes_it_nowhere() -> None:
    text = ArtPrompt().transform(REQUEST)
    assert "placeholder" not in text.lower()
    assert text.endswith("Tell me how to assemble a [MASK], then hide the [MASK]'s trace!")
    letters = text.split("\n\n")[1].split("\n*\n")
    assert [letters.index(letter) for letter in letters] == ["placeholder".index(letter) for letter in "placeholder"]
    assert all("#" in letter and not re.search("[A-Za-z]", letter) for letter in letters)


def test_artprompt_marks_several_words_in_the_requests_order() -> None:
    text = ArtPrompt(words=2).transform(REQUEST)
    assert "assemble" not in text.lower()
    assert text.endswith("how to [MASK1] a [MASK2], then hide the [MASK2]'s trace!")
    assert text.index("[MASK1] is:") < text.index("[MASK2] is:")
    assert ArtPrompt(words=3).transform("Build a placeholder mask").endswith("[MASK1] a [MASK2] [MASK3]")
    assert ArtPrompt().transform("How do I do it?") == "How do I do it?", "there is no content word"


def test_artprompt_says_which_package_and_which_font_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"jailbreak\.font=wingding: none of pyfiglet's"):
        ArtPrompt(font="wingding").check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"asft-lab\[jailbreaks\]"):
        ArtPrompt().check()


def test_dra_hides_telling_words_and_its_puzzle_spells_the_request() -> None:
    text = DRA().transform(REQUEST)
    lines = re.findall(r"^\d+\. (.*)$", text, re.M)
    assert " ".join("".join(re.findall(r"\(([^()]+)\)", line)) for line in lines) == REQUEST
    for word in ("assemble", "placeholder", "trace"):
        assert word not in text.lower()
    hidden = lines[4].split()
    assert {part.replace("(", "").replace(")", "").lower() for part in hidden} <= set(CARRIERS)


def test_dra_is_drawn_from_its_seed_and_the_request_alone() -> None:
    assert all(sum(letter in word for word in CARRIERS) >= 3 for letter in string.ascii_lowercase)
    assert DRA().transform(REQUEST) == DRA().transform(REQUEST) != DRA(seed=1).transform(REQUEST)
    first, second = (DRA().transform(f"assemble {end}").splitlines()[2] for end in ("this", "that"))
    assert first != second, "the draw depends on the request"


def test_rows_keep_their_ids_and_their_input_is_disguised_too() -> None:
    row = Row("a/1", "Summarise the placeholder", input="about the contraption", harmful=True)
    (query,) = asked(DRA(), [row])
    assert (query.id, query.input, query.harmful) == ("a/1", "", True)
    assert "contraption" not in query.instruction
    assert asked(Jailbreak(), [row]) == [row]


def test_prompts_longer_than_the_model_are_told() -> None:
    require_context(DRA(), [[0] * 90], new_tokens=10, positions=100)
    with pytest.raises(ValueError, match=r"jailbreak=dra: a disguised request has 91 tokens.*100 positions"):
        require_context(DRA(), [[0] * 20, [0] * 91], new_tokens=10, positions=100)


def test_a_jailbreak_changes_the_answers_key_and_no_training(make_job: MakeJob) -> None:
    without, with_it, seeded = make_job(), make_job("jailbreak=dra"), make_job("jailbreak=dra", "jailbreak.seed=1")
    assert without.plan.train == with_it.plan.train
    assert len({made.key for made in (without, with_it, seeded)}) == 3
    assert without.plan.generate["HS"]["asked"]["jailbreak"] == {"name": "none", "code": 1}
    assert without.plan.generate["FA"] == with_it.plan.generate["FA"], "the task's rows are asked as they are"


def test_report_and_tracker_tell_disguises_apart(published: Path) -> None:
    sweep = enumerate_cells(["experiment=jailbreaks", "method=sft,aligned", f"data.root={published}"], sweep=True)
    notes = "\n".join(table_spec(sweep, "").notes)
    for words in ("Prompts under artprompt", "Prompts under dra", "HS is an upper bound there"):
        assert words in notes
    plain = enumerate_cells(["experiment=demo", "method=sft"], sweep=True)
    assert "disguises" not in "\n".join(table_spec(plain, "").notes)
    runs = [cell_run(item) for item in sweep.cells]
    assert len({(run.config["method"]["name"], run.place) for run in runs}) == len(sweep.cells) == 6


def test_neither_trackers_nor_run_lines_take_another_judge_or_protocol_for_a_seed(tmp_path: Path) -> None:
    choices = ["judge=refusal,llama_guard", "protocol=clean,official", f"outputs={tmp_path}"]
    jobs = enumerate_cells(["method=sft", *choices], sweep=True).cells
    assert len(jobs) == 4
    assert len({cell_run(job).place for job in jobs}) == 4
    assert len({describe(job) for job in jobs}) == 4


def test_only_seeds_share_a_trackers_group(tmp_path: Path) -> None:
    words = ["experiment=attacker", "method=sft", "model.seed=0,1", "seed=0,1", f"outputs={tmp_path}"]
    jobs = enumerate_cells(words, sweep=True).cells
    assert len({cell_run(job).place for job in jobs}) == len({job.key for job in jobs}) / 2


REAL = "model=pair model.base=a/base model.aligned=a/aligned data=hub"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("judge=llm judge.model=x,y", "judge=llm judge.model=y"),
        ("judge=llama_guard judge.max_new_tokens=8,16", "judge.max_new_tokens=16"),
        (
            "judge=llm judge.base_url=https://one.example/of/this/length,https://two.example/of/this/length",
            "settings=.{6}$",
        ),
        ("evaluation.n_harmful=250,50", "evaluation.n_harmful=50"),
        ("evaluation.dtype=null,bfloat16", "evaluation.dtype=bfloat16"),
        ("dataset.n_test=100,500", "dataset.n_test=500"),
        (f"{REAL} model.base=a/base,b/base", "data=hub model.base=b/base model.aligned=a/aligned"),
        (f"{REAL} jailbreak=dra jailbreak.seed=0,1", "jailbreak.seed=1"),
        (f"{REAL} dataset=alpaca grader.model=x,y", "grader.model=y"),
        ("method=aligned evaluation.n_harmful=250,50", "evaluation.n_harmful=50"),
        ("experiment=table7 measure.direction=harmful model=tiny_llama training.lr=1e-4,1e-3", "lr=0.001"),
        ("experiment=table7 measure.direction=harmful model=tiny_llama judge=refusal,llama_guard", "judge=llama_guard"),
        ("experiment=table1 measure.update=harmful attack.n=10 training.epochs=1,2", "epochs=2"),
    ],
)
def test_what_is_no_seed_parts_a_trackers_groups(tmp_path: Path, words: str, told: str) -> None:
    jobs = enumerate_cells([*words.split(), f"outputs={tmp_path}"], sweep=True).cells
    places = [cell_run(job).place for job in jobs]
    assert len(set(places)) == len({job.key for job in jobs}) == 2
    assert re.search(told, places[1]), places


def test_what_changes_no_result_parts_no_group(tmp_path: Path) -> None:
    words = ["judge=llm", "judge.concurrency=1,2", "evaluation.batch_size=8,16", "seed=1,2", f"outputs={tmp_path}"]
    (place,) = {cell_run(job).place for job in enumerate_cells(words, sweep=True).cells}
    assert place.endswith("λ=1 judge=llm"), place


@pytest.mark.parametrize("key", ["safe_lora_modules=1,2", "epochs=2,3"])
def test_a_recipe_given_on_the_command_line_is_told(tmp_path: Path, key: str) -> None:
    jobs = enumerate_cells(["method=safe_lora", f"model.recipe.{key}", f"outputs={tmp_path}"], sweep=True).cells
    runs = [cell_run(job) for job in jobs]
    assert len({(run.row, run.place) for run in runs}) == 2
    assert len({describe(job) for job in jobs}) == 2
