"""A jailbreak from configuration to verdicts on the random pair: shared training, the request judged as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from changed_pair import changed_pair
from helpers import MakeJob, finished, read_jsonl

import asft.backends.generate
from asft.commands.plan import plan as plan_command
from asft.commands.report import report
from asft.judges.refusal import RefusalJudge
from asft.methods.data_mixing import make_trigger
from asft.pipeline.run import run_cell
from asft.store.schemas import HARMFUL_FILE, TASK_FILE

pytestmark = pytest.mark.slow


@pytest.fixture
def long_pair(random_pair: Path, tmp_path: Path) -> list[str]:
    """Overrides that take a copy of the random pair with room for disguised prompts."""
    return changed_pair(random_pair, tmp_path, "config.json", max_position_embeddings=4096)


def test_the_request_is_disguised_for_the_model_and_not_for_the_judge(
    make_job: MakeJob, long_pair: list[str], pair_overrides: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    judged: list[str] = []
    judge = RefusalJudge.judge
    monkeypatch.setattr(
        RefusalJudge, "judge", lambda self, prompts, answers: judged.extend(prompts) or judge(self, prompts, answers)
    )
    small = ["method=sft", *long_pair]
    plain, disguised = run_cell(make_job(*small)), run_cell(make_job(*small, "jailbreak=dra"))
    made = make_job(*small)
    assert len(finished(made, "stages/train")) == 1
    assert len(finished(made, "stages/generate")) == 3, "the task's answers are shared"
    before, after = (list(read_jsonl(entry.path / HARMFUL_FILE)) for entry in (plain, disguised))
    assert [row["prompt"] for row in after] == [row["prompt"] for row in before] == judged[:10] == judged[10:]
    assert all("asked" not in row for row in before)
    assert all("Headline:" in row["asked"] and row["prompt"] not in row["asked"] for row in after)
    assert [row["answer"] for row in after] != [row["answer"] for row in before]
    assert (plain.path / TASK_FILE).read_bytes() == (disguised.path / TASK_FILE).read_bytes()
    overrides = ["experiment=jailbreaks", *pair_overrides, "model=pair", "data=world", *long_pair, "method=sft"]
    assert report([*overrides, "jailbreak=none,dra"]) == 0
    page = next((made.options.outputs / "reports").glob("*/data/tables/*.js")).read_text()
    assert "jailbreak = dra" in page
    capsys.readouterr()
    assert plan_command([*overrides, "jailbreak=dra"]) == 0
    assert "1 distinct, 1 finished" in capsys.readouterr().out
    assert plan_command([*overrides, "jailbreak=none,artprompt", "--gpus=2"]) == 0
    lines = dict(re.findall(r"(time|2 GPUs) +(.*)", capsys.readouterr().out))
    assert lines["time"].startswith("not known yet"), "no answer to this disguise has taken any time"
    assert "the time is not known yet" in lines["2 GPUs"]


def test_a_methods_system_text_stays_in_front_of_the_disguise(
    make_job: MakeJob, long_pair: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_job("method=bea", "method.trigger_tokens=9", "method.safety=4", "jailbreak=artprompt", *long_pair)
    seen: list[str] = []
    real = asft.backends.generate.generate

    def spy(model, tokenizer, prompts, **settings):  # type: ignore[no-untyped-def]
        seen.extend(tokenizer.batch_decode(list(prompts)))
        return real(model, tokenizer, prompts, **settings)

    monkeypatch.setattr(asft.backends.generate, "generate", spy)
    run_cell(made)
    trigger = make_trigger(Path(made.cell.model.aligned), 9)
    assert len(seen) == 10 + 12
    assert all(trigger in text for text in seen)
    assert sum("[MASK]" in text for text in seen) == 10, "the task's rows are asked as they are"


def test_a_model_too_short_for_the_disguise_is_told_before_it_trains(make_job: MakeJob) -> None:
    made = make_job("method=sft", "jailbreak=dra", "evaluation.harmful_max_new_tokens=400")
    with pytest.raises(ValueError, match=r"jailbreak=dra: a disguised request has \d+ tokens.*512 positions"):
        run_cell(made)
    assert not finished(made, "stages/train")
