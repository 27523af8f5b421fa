"""Each task's parsing rule against answers that are hard to parse (methods.md §12)."""

from __future__ import annotations

import pytest

from asft.data.rows import Row
from asft.evaluation.accuracy import accuracy, parse_number, score_task


@pytest.mark.parametrize(
    ("gold", "answer", "credit"),
    [
        ("positive", "positive", 1),
        ("positive", "Positive", 1),
        ("positive", " positive \n", 1),
        ("positive", "POSITIVE", 0),
        ("positive", "positive.", 0),
        ("positive", "It is positive", 0),
        ("positive", "negative", 0),
        ("negative", "Negative", 1),
        ("negative", "", 0),
    ],
)
def test_sst2_is_an_exact_word(gold: str, answer: str, credit: float) -> None:
    assert score_task("sst2", [Row("0", "q", gold)], [answer]) == [credit]


@pytest.mark.parametrize(
    ("gold", "answer", "credit"),
    [
        ("Sports", "Sports", 1),
        ("Sports", "sports.", 1),
        ("Sports", "The category is SPORTS!", 1),
        ("Sports", "Sportsman", 0),
        ("Sports", "World, Sports, Business, Sci/Tech", 1),
        ("World", "Worldwide", 0),
        ("Sci/Tech", "Sci/Tech", 1),
        ("Sci/Tech", "sci", 1),
        ("Sci/Tech", "Technology", 1),
        ("Sci/Tech", "tech news", 1),
        ("Sci/Tech", "science", 0),
        ("Business", "", 0),
    ],
)
def test_agnews_looks_for_the_whole_word_anywhere(gold: str, answer: str, credit: float) -> None:
    assert score_task("agnews", [Row("0", "q", gold)], [answer]) == [credit]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The final answer is: 42", 42),
        ("3 + 4 = 7. The final answer is:  7 apples, of 9", 7),
        ("The final answer is: 1,234.50", 1234.5),
        ("The final answer is: -3", -3),
        ("first 5, then 6", 6),
        ("It costs $12.", 12),
        ("The final answer is: unknown, perhaps 3", 3),
        ("7 so The final answer is: none", 7),
        ("no number", None),
        ("", None),
    ],
)
def test_gsm8k_number(text: str, number: float | None) -> None:
    assert parse_number(text) == number


def test_gsm8k_compares_as_floats_and_no_number_is_wrong() -> None:
    row = Row("0", "q", "2 + 2 = 4. The final answer is: 4")
    assert score_task("gsm8k", [row] * 4, ["4.0", "4", "5", "four"]) == [1, 1, 0, 0]


def test_accuracy_is_a_percentage() -> None:
    assert accuracy([1, 0, 1, 1]) == 75
