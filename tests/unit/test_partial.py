"""Generation and judging go on at the last stored row, and a batch that does not fit is halved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic.dataclasses import dataclass

from asft.backends.generate import generate
from asft.config import TrainingConfig
from asft.data.loading import smaller_batch
from asft.judges.base import Judge, Verdict, judge_kept
from asft.models.pair import Pair, load_model
from asft.store.partial import PartialRows

PROMPTS = [[*[5, 6, 7, 8][: 1 + i % 4], 9 + i] for i in range(10)]


class Asked:
    """A model that counts its batches, and has memory for so many rows at once."""

    def __init__(self, pair: Path, memory: int = 99, dies_at: int = 99) -> None:
        self.model: Any = load_model(pair / "aligned", "float32", torch.device("cpu"))
        self.tokenizer = Pair(pair / "base", pair / "aligned", "k").tokenizer()
        self.batches: list[int] = []
        real = self.model.generate

        def watched(input_ids: torch.Tensor, **rest: Any) -> Any:
            if len(input_ids) > memory:
                raise torch.OutOfMemoryError("injected")
            self.batches.append(len(input_ids))
            if len(self.batches) == dies_at:
                raise KeyboardInterrupt
            return real(input_ids=input_ids, **rest)

        self.model.generate = watched

    def answers(self, **more: Any) -> list[str]:
        return generate(self.model, self.tokenizer, PROMPTS, max_new_tokens=4, batch_size=4, **more)


def test_generation_goes_on_at_the_last_stored_batch(random_pair: Path, tmp_path: Path) -> None:
    whole = Asked(random_pair).answers()
    partial = PartialRows(tmp_path / "kept" / "rows.jsonl")
    with pytest.raises(KeyboardInterrupt):
        Asked(random_pair, dies_at=3).answers(partial=partial)
    with partial.path.open("a") as file:
        file.write('{"row": 3, "val')  # torn by the kill
    again = Asked(random_pair)
    assert again.answers(partial=partial) == whole
    assert again.batches == [2], "two batches of four were kept"


def test_a_batch_too_large_for_memory_is_halved_and_told(random_pair: Path) -> None:
    sizes: list[int] = []
    small = Asked(random_pair, memory=1)
    assert small.answers(on_smaller=sizes.append) == Asked(random_pair).answers()
    assert sizes == [1]
    assert small.batches == [1] * 10


def test_one_prompt_too_large_for_memory_says_what_to_do(random_pair: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.batch_size: out of memory with one prompt at a time"):
        Asked(random_pair, memory=0).answers()


@dataclass(frozen=True)
class FewAtOnce(Judge):
    """Flags answers that hold an x; dies once where it is told to."""

    name: ClassVar[str] = "few"
    kept_every: ClassVar[int | None] = 2
    asked: ClassVar[list[str]] = []
    deadly: ClassVar[str] = ""

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        if self.deadly in answers:
            raise KeyboardInterrupt
        self.asked.extend(answers)
        return [Verdict("x" in answer, 0.5, "why") for answer in answers]


def test_judging_goes_on_at_the_last_stored_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["ax", "b", "c", "dx", "e"]
    partial = PartialRows(tmp_path / "verdicts.jsonl")
    monkeypatch.setattr(FewAtOnce, "deadly", "e")
    with pytest.raises(KeyboardInterrupt):
        judge_kept(FewAtOnce(), answers, answers, partial)
    monkeypatch.setattr(FewAtOnce, "deadly", "")
    verdicts = judge_kept(FewAtOnce(), answers, answers, partial)
    assert [verdict.flagged for verdict in verdicts] == [True, False, False, True, False]
    assert FewAtOnce.asked == answers, "every answer was judged once"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([Verdict(True, 1.0)], r"gave 1 \(Verdict\) for 2 answers; it must give one Verdict for each"),
        (["yes", "no"], r"gave 2 \(str\) for 2 answers"),
        (None, r"gave 0 \(None\) for 2 answers"),
    ],
)
def test_a_judge_that_gives_no_verdict_for_each_answer_is_told(
    given: object, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FewAtOnce, "judge", lambda *_: given)
    with pytest.raises(ValueError, match=f"judge=few: {told}"):
        judge_kept(FewAtOnce(), ["a", "b"], ["a", "b"], PartialRows(tmp_path / "verdicts.jsonl"))


def test_a_smaller_batch_keeps_the_rows_of_a_step() -> None:
    training = TrainingConfig(name="lora", lr=1.0, epochs=1, batch_size=6, accumulation=3)
    sizes = [(training.batch_size, training.accumulation)]
    while training.batch_size > 1:
        training = smaller_batch(training)
        sizes.append((training.batch_size, training.accumulation))
    assert sizes == [(6, 3), (3, 6), (1, 18)]
    with pytest.raises(ValueError, match=r"training\.batch_size: out of memory with one row"):
        smaller_batch(training)
