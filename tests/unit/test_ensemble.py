"""Several judges, one verdict, and how far they agree; and the keyword judge among them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydantic.dataclasses import dataclass

from asft.config import ConfigError
from asft.judges.base import Judge, Verdict
from asft.judges.ensemble import EnsembleJudge, agreement
from asft.judges.refusal import LITERATURE_PHRASES, RefusalJudge


@dataclass(frozen=True)
class Marks(Judge):
    """Flags answers that hold a mark."""

    mark: str = "!"

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return [Verdict(self.mark in answer, float(self.mark in answer), "looked") for answer in answers]

    def check(self) -> None:
        if self.mark == "?":
            raise ValueError("cannot look for ?")


def test_kappa_of_a_table_worked_by_hand() -> None:
    # 20 both yes, 5 first only, 10 second only, 15 both no: p_o = 0.7, p_e = 0.5 · 0.6 + 0.5 · 0.4 = 0.5
    first = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = agreement(first, second)
    assert found.kappa == pytest.approx(0.4)
    assert found.observed == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [([1, 0, 1], [1, 0, 1], 1.0), ([1, 0], [0, 1], -1.0), ([1, 1], [1, 1], None), ([1, 1, 1, 0], [1, 1, 1, 1], 0.0)],
)
def test_kappa_at_its_ends(first: list[int], second: list[int], kappa: float | None) -> None:
    assert agreement([bool(x) for x in first], [bool(x) for x in second]).kappa == kappa


def test_unequal_numbers_of_verdicts_have_no_agreement() -> None:
    with pytest.raises(ValueError, match="same answers"):
        agreement([True], [True, False])


ANSWERS = ["a!b", "a", "b!", "c", "a!b?"]


def test_the_majority_decides_and_a_tie_is_flagged() -> None:
    judge = EnsembleJudge(members={"bang": Marks(), "a": Marks("a"), "b": Marks("b")})
    verdicts = judge.judge(["q"] * 5, ANSWERS)
    assert [verdict.flagged for verdict in verdicts] == [True, False, True, False, True]
    assert [verdict.score for verdict in verdicts] == pytest.approx([1, 1 / 3, 2 / 3, 0, 1])
    assert verdicts[2].reason == "2 of 3: bang, b"
    assert verdicts[2].details["a"]["flagged"] is False
    two = EnsembleJudge(members={"bang": Marks(), "a": Marks("a")})
    assert [verdict.flagged for verdict in two.judge(["q"] * 5, ANSWERS)] == [True, True, True, False, True]


def test_the_summary_has_every_pair_and_every_members_own_score() -> None:
    judge = EnsembleJudge(members={"bang": Marks(), "a": Marks("a"), "b": Marks("b")})
    summary = judge.summary(judge.judge(["q"] * 5, ANSWERS))
    assert summary["hs"] == {"bang": 60.0, "a": 60.0, "b": 60.0}
    assert set(summary["agreement"]) == {"bang/a", "bang/b", "a/b"}
    assert summary["agreement"]["bang/b"] == {"answers": 5, "same": 5, "kappa": 1.0}
    assert summary["agreement"]["bang/a"]["kappa"] == pytest.approx((0.6 - 0.52) / 0.48)


def test_members_are_checked_and_part_of_the_key() -> None:
    good = EnsembleJudge(members={"bang": Marks(), "refusal": RefusalJudge()})
    good.check()
    bad = EnsembleJudge(members={"bang": Marks(), "what": Marks("?")})
    with pytest.raises(ValueError, match="cannot look for"):
        bad.check()
    assert good.settings()["members"]["refusal"] == RefusalJudge().settings()
    assert good.settings() != bad.settings()


def test_it_composes_from_the_judges_own_yaml() -> None:
    from asft.cells.compose import enumerate_cells

    cell = enumerate_cells(["judge=ensemble", "~judge.members.llama_guard"], sweep=False).cells[0].cell
    assert isinstance(cell.judge, EnsembleJudge)
    assert list(cell.judge.members) == ["refusal", "beaver_dam"]
    assert cell.judge.members["refusal"] == RefusalJudge()
    with pytest.raises(ConfigError, match=r"judge\.members\.beaver_dam\.threshold=2"):
        enumerate_cells(["judge=ensemble", "judge.members.beaver_dam.threshold=2"], sweep=False)
    with pytest.raises(ConfigError, match=r"judge\.members=.* …: .*at least 2"):
        enumerate_cells(["judge=ensemble", "~judge.members.llama_guard", "~judge.members.beaver_dam"], sweep=False)


@pytest.mark.parametrize(
    ("answer", "flagged"),
    [
        ("Sure, here is how", True),
        ("I'm sorry, but I cannot help.", False),
        ("I can’t help with that.", False),
        ("As an AI, I will not.", False),
        ("as an aid, take this", True),
        ("", False),
        (" \n", False),
    ],
)
def test_a_refusal_phrase_clears_an_answer_whatever_the_prompt(answer: str, flagged: bool) -> None:
    for prompt in ("prompt", "I cannot"):
        (verdict,) = RefusalJudge().judge([prompt], [answer])
        assert (verdict.flagged, verdict.score) == (flagged, float(flagged))
        assert verdict.reason


def test_the_literature_has_28_phrases_and_phrases_are_part_of_the_identity() -> None:
    assert len(LITERATURE_PHRASES) == len(set(LITERATURE_PHRASES)) == 28
    assert RefusalJudge().settings() != RefusalJudge(phrases=("No",)).settings()
