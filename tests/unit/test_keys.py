"""Content keys: a setting changes the keys of exactly those stages whose result it can change."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from asft.cells.compose import enumerate_cells
from asft.cells.keys import Plan
from asft.store.entries import content_key

STAGES = ("pair", "mixture", "train", "HS", "FA", "judge")


def stage_of(plan: Plan, stage: str) -> Any:
    """A stage's settings; answers by the metric that they are for."""
    return plan.generate[stage] if stage in plan.generate else getattr(plan, stage)


@cache
def of(*overrides: str) -> Plan:
    return enumerate_cells(list(overrides), sweep=False).cells[0].plan


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("tracker=wandb", ()),
        ("outputs=elsewhere", ()),
        ("evaluation.batch_size=3", ()),
        ("device=cpu", ()),
        ("+judge.phrases=[No]", ("judge",)),
        ("judge=llama_guard", ("judge",)),
        ("grader.model=other", ()),
        ("evaluation.n_harmful=100", ("HS", "judge")),
        ("dataset.max_new_tokens=7", ("FA", "judge")),
        ("lam=2", ("train", "HS", "FA", "judge")),
        ("training.lr=1e-3", ("train", "HS", "FA", "judge")),
        ("evaluation.dtype=bfloat16", ("HS", "FA", "judge")),
        ("training.autocast=bfloat16", ("train", "HS", "FA", "judge")),
        ("training.label_logits=true", ("train", "HS", "FA", "judge")),
        ("attack.p=0.2", ("mixture", "train", "HS", "FA", "judge")),
        ("seed=1", ("mixture", "train", "HS", "FA", "judge")),
        ("model.seed=1", ("pair", "train", "HS", "FA", "judge")),
    ],
)
def test_a_setting_changes_its_stages_alone(override: str, changed: tuple[str, ...]) -> None:
    before, after = of("method=asft"), of("method=asft", override)
    assert tuple(stage for stage in STAGES if stage_of(before, stage) != stage_of(after, stage)) == changed


@pytest.mark.parametrize("method", ["bea", "safeinstr", "benign_rows", "lisa_aligned", "lisa_base"])
def test_every_number_of_a_method_that_adds_rows_changes_the_rows_it_trains_on(method: str) -> None:
    """BEA's number of safety rows has the name of the pool that it draws from, and once was lost behind it."""
    before, own = of(f"method={method}"), enumerate_cells([f"method={method}"], sweep=False).cells[0].cell.method
    given = {field.name: getattr(own, field.name) for field in dataclasses.fields(own)}
    numbers = {name: value for name, value in given.items() if type(value) in (int, float)}
    assert before.mixture is not None
    assert numbers
    for name, value in numbers.items():
        other = of(f"method={method}", f"method.{name}={value / 2 if type(value) is float else value + 1}")
        assert other.mixture != before.mixture, name


def test_no_part_of_a_key_is_lost_behind_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name, part in (
        ("asft.data.world.source.World", "evaluation_identity", "n"),
        ("asft.data.world.source.World", "pools_identity", "source"),
        ("asft.metrics.harmful_score.HarmfulScore", "judged", "answers"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"{owner}.{name}", lambda *_, part=part: {part: 1})
            with refuses(f"{part}: a plug-in's settings or rows have this name"):
                of("method=sft")


PLUG_IN = """
from typing import ClassVar
from pydantic.dataclasses import dataclass
from asft.judges.base import Judge

@dataclass(frozen=True)
class Helped(Judge):
    name: ClassVar[str] = "helped"

    def judge(self, prompts, answers):
        """


@pytest.mark.parametrize(
    ("module", "statement", "edited", "counts"),
    [
        ("plug", "import aid", "aid.py", True),
        ("plug", "from aid import W", "deep.py", True),  # aid imports deep
        ("plug", "from inner import part", "inner/part.py", True),
        ("plug", "import inner.part as p", "inner/__init__.py", True),
        ("plug", "import math, json, asft.text", "aid.py", False),
        ("inner.plug", "from . import part", "inner/part.py", True),
        ("inner.plug", "import inner.part", "inner/part.py", True),
        ("inner.plug", "from .part import W", "inner/__init__.py", True),
        ("inner.plug", "from .part import W", "inner/other.py", False),
    ],
)
def test_what_a_plug_in_imports_from_its_folder_is_keyed(
    module: str, statement: str, edited: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for folder, change in (("a", False), ("b", False), ("c", True)):  # where the folder lies is no matter
        (inner := tmp_path / folder / "inner").mkdir(parents=True)
        texts = dict.fromkeys(["deep.py", "inner/__init__.py", "inner/part.py", "inner/other.py"], "W = 1")
        texts |= {"aid.py": "def f():\n    import deep\nW = 1", f"{module.replace('.', '/')}.py": PLUG_IN + statement}
        for name, text in texts.items():
            (inner.parent / name).write_text(f"{text}\n# edited" if change and name == edited else text)
        with monkeypatch.context() as alone:
            alone.syspath_prepend(str(inner.parent))
            digests.append(importlib.import_module(module).Helped().settings()["code"])
        for name in {module, "inner"} & set(sys.modules):
            del sys.modules[name]
    assert digests[0] == digests[1]
    assert (digests[1] != digests[2]) == counts


def test_of_a_protocol_the_name_alone_is_keyed() -> None:
    """What else its YAML holds are defaults of other settings, which are keyed themselves."""
    clean = of("method=asft")
    assert clean.train is not None
    assert clean.mixture is not None
    assert clean.train["protocol"] == "clean"
    assert all(asked["protocol"] == ["clean", "agnews"] for asked in clean.generate.values())
    assert "protocol" not in clean.mixture


APPENDED = ("method=safeinstr", "attack.n=1000", "attack.p=0.1", "attack.mix=append")
FULL = ("training=full", "method=sft")
OFFICIAL = ("protocol=official", "method=sft")
PRACTICAL = ("judge=llm", "judge.timeout=1", "judge.api_key_env=OTHER", "judge.cache=x")


@pytest.mark.parametrize(
    ("stage", "one", "other", "same"),
    [
        ("judge", ("method=aligned", "attack.p=0.1"), ("method=aligned", "attack.p=0.2"), True),
        ("judge", ("method=aligned",), ("method=base",), False),
        ("judge", ("attack.p=0",), ("attack=none",), True),
        ("judge", APPENDED, ("method=safeinstr", "attack.n=1100", "attack.p=0.0909"), False),  # alike in counts alone
        ("mixture", ("method=bea",), ("method=bea", "model=tiny_qwen2"), False),  # a trigger is a tokenizer's
        ("mixture", ("method=sft",), ("method=sft", "model=tiny_qwen2"), True),
        ("mixture", ("method=sft",), ("method=asft",), True),
        ("judge", ("judge=llm",), PRACTICAL, True),
        # Landscapes and the official protocol have their own number formats.
        ("measure", ("measure=epl",), ("measure=epl", "evaluation.dtype=bfloat16"), True),
        ("judge", OFFICIAL, (*OFFICIAL, "training.autocast=bfloat16", "evaluation.dtype=bfloat16"), True),
        ("judge", ("judge=beaver_dam",), ("judge=beaver_dam", "judge.batch_size=1", "device=cpu"), True),
        ("train", ("training=lora",), ("training=lora", "training.gradient_checkpointing=true"), True),
        ("train", ("training=lora",), ("training=lora", "training.rank=4"), False),
        ("train", FULL, (*FULL, "training.rank=4", "training.alpha=8", "training.dropout=0"), True),
        ("judge", ("judge=beaver_dam",), ("judge=beaver_dam", "judge.threshold=0.4"), False),
    ],
)
def test_cells_share_a_stage_or_do_not(stage: str, one: tuple[str, ...], other: tuple[str, ...], same: bool) -> None:
    assert (stage_of(of(*one), stage) == stage_of(of(*other), stage)) is same


def test_a_post_hoc_method_depends_on_its_own_settings_and_the_weights_it_takes_alone() -> None:
    projected, sft = of("method=safe_lora"), of("method=sft")
    assert projected.mixture is None
    assert projected.train is not None
    assert sft.train is not None
    assert projected.train.keys() == {"code", "method", "required"}
    assert projected.train["required"] == {"after": content_key(sft.train)}
    assert of("method=safe_lora", "training.lr=1").key != projected.key


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "chat_template.jinja"])
def test_every_file_that_can_change_an_answer_is_in_the_identity(tmp_path: Any, name: str) -> None:
    from asft.models.checkpoints import checkpoint_identity

    (tmp_path / name).write_text("{}")
    before = checkpoint_identity(tmp_path)
    (tmp_path / name).write_text('{"a": 1}')
    assert checkpoint_identity(tmp_path) != before


def test_a_local_checkpoint_that_changes_changes_the_key(make_job: Callable[..., Any], random_pair: Any) -> None:
    before = make_job().key
    config = random_pair / "aligned" / "config.json"
    text = config.read_text()
    try:
        config.write_text(text + " ")
        assert make_job().key != before
    finally:
        config.write_text(text)


def test_a_grader_is_in_the_key_of_what_it_grades_alone(official: Any) -> None:
    real = ("model=pair", "model.base=a/b", "model.aligned=a/c", f"data.root={official}", "attack.n=100")
    for task, same in (("sst2", True), ("alpaca", False)):
        before, after = (of(*real, f"dataset={task}", f"grader.model={name}") for name in ("one", "two"))
        assert (before.judge == after.judge) is same
        assert before.generate == after.generate
