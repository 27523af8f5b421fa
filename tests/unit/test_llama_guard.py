"""The guard judge: its template, its reply, and a tiny guard that was taught one word."""

from __future__ import annotations

from pathlib import Path

import pytest
from judge_models import config, letters

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


def test_a_model_that_is_no_guard_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(config()).save_pretrained(tmp_path)
    tokenizer = letters(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        judge(tmp_path).judge(["q"], ["a"])
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="neither safe nor unsafe"):
        judge(tmp_path).judge(["q"], ["a"])
