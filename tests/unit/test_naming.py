"""Cells that differ in a method's settings have different names, and defaults are not named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from asft.cells.compose import config_dir, enumerate_cells
from asft.cells.naming import fine_tune, method_name, variant
from asft.commands import run
from asft.commands.run import describe, finished_line
from asft.config import as_plain
from asft.console import Terminal
from asft.pipeline.tracked import cell_run
from asft.store.entries import Entry


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("method=asft lam=3", "asft λ=3"),
        ("method=safe_lora", "safe_lora"),
        ("method=safe_lora method@method.after=asft method.after.lam=3", "safe_lora ∘ asft λ=3"),
        ("method=safe_lora method.number=2", "safe_lora K=2"),
        ("method=safe_lora_random method.mode=threshold method.threshold=0.1", "safe_lora_random mode=threshold τ=0.1"),
        ("method=wise_ft method.share=0.3 method@method.after=lisa_base", "wise_ft a=0.3 ∘ lisa_base"),
        ("method=bea_no_trigger method.after.safety=3", "bea_no_trigger ∘ bea rows=3"),
        ("method=guard_space method.damping=0.1", "guard_space damping=0.1"),
    ],
)
def test_a_name_holds_what_is_not_as_usual(words: str, name: str) -> None:
    (job,) = enumerate_cells(words.split(), sweep=False).cells
    assert method_name(job.cell.method.settings(), as_plain(job.cell.model)) == name
    assert describe(job).startswith(f"{name} ")
    assert cell_run(job).row == ("asft" if name == "asft λ=3" else name), "a tracker's place holds λ"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("attack.p=0.2", "p=0.2"),
        ("dataset=alpaca training.epochs=10", "p=0.1"),
        ("training=full training.epochs=9", "p=0.1 full epochs=9"),
        ("attack=advbench attack.n=50 training.lr=0.01", "p=0.1 advbench n=50 lr=0.01"),
        ("protocol=official", "p=0.1"),
    ],
)
def test_a_fine_tune_is_told_by_what_is_not_as_usual(words: str, told: str) -> None:
    (job,) = enumerate_cells(words.split(), sweep=False).cells
    assert fine_tune(job.plain()) == told
    assert describe(job).startswith(f"asft λ=1       tiny_llama {job.cell.dataset.name} {told}")
    old = {**job.plain(), "model": {"name": "x"}, "training": {"name": "../full", "lr": 0.1}}
    assert fine_tune(old).endswith(" lr=0.1"), "what cannot be known to be usual is told"


def test_no_method_as_its_yaml_has_it_has_a_variant() -> None:
    full = {"antidote", "safe_delta"}  # they edit full weights
    lora = {path.stem for path in (config_dir() / "method").glob("*.yaml")} - full
    for names, training in ((lora, "lora"), (full, "full")):
        words = [f"method={','.join(sorted(names))}", f"training={training}"]
        for job in enumerate_cells(words, sweep=True).cells:
            assert variant(job.cell.method.settings(), as_plain(job.cell.model)) == "", job.cell.method.name


def test_a_method_that_no_yaml_names_tells_all_its_settings() -> None:
    assert method_name({"name": "mine", "code": 1, "strength": 0.5, "kind": "a"}, {}) == "mine strength=0.5 kind=a"


@pytest.mark.parametrize(("width", "lines"), [(None, 1), (200, 1), (80, 2), (60, 3)])
def test_a_terminal_breaks_a_long_line_between_words(
    width: int | None, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "method=safe_lora method@method.after=asft method.number=2 training.lr=0.01 training.epochs=9 attack.n=50"
    (job,) = enumerate_cells(words.split(), sweep=False).cells
    terminal = Terminal(file=io.StringIO(), width=width, force_terminal=width is not None)
    monkeypatch.setattr(run, "console", terminal)
    entry = Entry(Path(), {"result": {"metrics": {"HS": {"value": 5.0}, "FA": {"value": 99.5}}}})
    told = finished_line(job, entry, "42 s").split("\n")
    assert len(told) == lines
    assert max(map(len, told)) <= (width or 200)
    assert " ".join(" ".join(told).split()) == " ".join(f"{describe(job)} HS 5.0 FA 99.5 (42 s)".split())
