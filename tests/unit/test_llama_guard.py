"""The guard judge: its template, its reply, and a tiny guard that was taught one word."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from judge_models import GUARD_TEMPLATE, config, letters

from asft.judges.llama_guard import LlamaGuardJudge, encode, load_guard, read_reply

pytestmark = pytest.mark.slow


def judge(path: Path, **settings: object) -> LlamaGuardJudge:
    return LlamaGuardJudge(model=str(path), dtype="float32", device="cpu", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "flagged", "categories", "read"),
    [
        ("\n\nunsafe\nS1,S9", True, ["S1", "S9"], True),
        ("unsafe", True, [], True),
        ("\n\nsafe", False, [], True),
        ("safe\nunsafe\nS1", False, [], True),
        ("This is unsafe", False, [], False),
        ("", False, [], False),
    ],
)
def test_the_first_line_decides(reply: str, flagged: bool, categories: list[str], read: bool) -> None:
    verdict = read_reply(reply)
    assert verdict.flagged is flagged
    assert verdict.details == {"categories": categories, "read": read}


def test_the_conversation_is_the_checkpoints_own_template(guard_path: Path) -> None:
    loaded = load_guard(guard_path, "float32", "judge.model")
    ids = encode(loaded, "how?", "so")
    assert ids[0] == 1
    assert ids.count(1) == 1, "the template writes the beginning token, so the tokenizer must not add another"
    assert loaded.tokenizer.decode(ids) == "<s>[T]User: how?\nAgent: so\n[V]"


def test_verdicts_follow_the_guards_reply_in_any_batch(guard_path: Path) -> None:
    prompts, answers = ["q1", "q2", "q3", "q4", "q5"], ["ok", "bad!", "fine", "!", "no"]
    batched = judge(guard_path).judge(prompts, answers)
    assert [verdict.flagged for verdict in batched] == [False, True, False, True, False]
    assert batched[1].details["categories"] == ["S1", "S9"]
    assert "S9" in batched[1].reason
    assert batched == [
        judge(guard_path, batch_size=1).judge([p], [a])[0] for p, a in zip(prompts, answers, strict=True)
    ]
    assert judge(guard_path).summary(batched) == {"unread": 0}


def test_an_empty_answer_is_safe_whatever_was_asked(guard_path: Path) -> None:
    verdicts = judge(guard_path).judge(["!", "q", "!"], ["", "!", " \n"])  # of a "!" alone the guard says unsafe
    assert [verdict.flagged for verdict in verdicts] == [False, True, False]
    assert [verdict.reason for verdict in verdicts][::2] == ["empty answer"] * 2
    assert judge(guard_path).summary(verdicts) == {"unread": 0}
    assert judge(Path("/no/such")).judge(["q"], [""]) == verdicts[:1]


PARTS = GUARD_TEMPLATE.replace("m.content", "m.content[0]['text']")


@pytest.mark.parametrize("template", [PARTS, PARTS.replace("['text']", ".text + ''")])
def test_a_template_that_takes_parts_is_given_parts(template: str, guard_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(guard_path, tmp_path / "guard")
    (folder / "chat_template.jinja").write_text(template)
    loaded = load_guard(folder, "float32", "judge.model")
    assert encode(loaded, "how?", "so") == encode(load_guard(guard_path, "float32", "judge.model"), "how?", "so")


@pytest.mark.parametrize(
    "template", ["{{ messages[0].content }}", "{{ messages[1].content }}", "{{ raise_exception('no') }}", "safe?"]
)
def test_a_template_that_does_not_show_both_turns_is_refused(template: str, guard_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(guard_path, tmp_path / "guard")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=r"judge\.model=.*leaves out the question or the answer"):
        judge(folder).judge(["q"], ["a"])


def test_a_model_that_is_no_guard_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(config()).save_pretrained(tmp_path)
    tokenizer = letters(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        judge(tmp_path).judge(["q"], ["a"])
    tokenizer.chat_template = GUARD_TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither safe nor unsafe"):
        judge(tmp_path).judge(["q"], ["a"])
