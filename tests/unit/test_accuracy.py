"""Each task's parsing rule against answers that are hard to parse."""

from __future__ import annotations

from pathlib import Path

import pytest

from asft.data.files import PUBLISHED, Files
from asft.data.rows import Row
from asft.data.tasks.published import parse_number
from asft.metrics.base import Scored, wilson


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
        ("negative", "nEgative", 0),
        ("negative", "negative!", 0),
        ("negative", "negative positive", 0),
        ("negative", "The sentiment is negative", 0),
        ("negative", '"negative"', 0),
        ("negative", "", 0),
    ],
)
def test_sst2_is_an_exact_word(gold: str, answer: str, credit: float) -> None:
    assert PUBLISHED["sst2"].credit(Row("0", "q", gold), answer) == credit


@pytest.mark.parametrize(
    ("gold", "answer", "credit"),
    [
        ("Sports", "Sports", 1),
        ("Sports", "sports.", 1),
        ("Sports", "The category is SPORTS!", 1),
        ("Sports", "Sportsman", 0),
        ("Sports", "World, Sports, Business, Sci/Tech", 1),
        ("World", "Worldwide", 0),
        ("World", "World, Sports, Business, Sci/Tech", 1),
        ("Business", "World, Sports, Business, Sci/Tech", 1),
        ("Sci/Tech", "World, Sports, Business, Sci/Tech", 1),
        ("World", "Sports or World?", 1),
        ("World", "This article is about the world of finance.", 1),
        ("Business", "I would file this under (business).", 1),
        ("Business", "Business-related", 1),
        ("Business", "businesses", 0),
        ("Business", "Sports", 0),
        ("Business", "Business\n\n### Instruction: more", 1),
        ("Sci/Tech", "Sci/Tech", 1),
        ("Sci/Tech", "sci", 1),
        ("Sci/Tech", "Technology", 1),
        ("Sci/Tech", "tech news", 1),
        ("Sci/Tech", "SCI/TECH.", 1),
        ("Sci/Tech", "biotech", 0),
        ("Sci/Tech", "science", 0),
        ("Business", "", 0),
    ],
)
def test_agnews_looks_for_the_whole_word_anywhere(gold: str, answer: str, credit: float) -> None:
    assert PUBLISHED["agnews"].credit(Row("0", "q", gold), answer) == credit


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
        ("The final answer is: 1,000,000", 1_000_000),
        ("It fell by 12. The final answer is:  -1,250.75 dollars", -1250.75),
        ("The final answer is: 3. The final answer is: 4", 3),
        ("The final answer is: 18\n\n### Instruction: name 5", 18),
        ("The final answer is: $18.00, of 20", 18),
        ("The Final Answer Is: 3, of 4", 4),
        ("the final answer is: 3; I counted 9", 9),
        ("The final answer is:5 and 6", 6),
        ("1,2 and 3,4", 34),
        ("7.", 7),
        (".5", 5),
        ("10-3", -3),
        ("2/3", 3),
        ("no number", None),
        ("", None),
    ],
)
def test_gsm8k_number(text: str, number: float | None) -> None:
    assert parse_number(text) == number


@pytest.mark.real
def test_every_published_gold_answer_is_scored_as_right(official: Path) -> None:
    for task in ("sst2", "agnews", "gsm8k"):
        rows = Files(str(official)).task_rows(PUBLISHED[task], "test")
        assert all(PUBLISHED[task].credit(row, row.output) == 1 for row in rows), task


def test_gsm8k_compares_as_floats_and_no_number_is_wrong() -> None:
    row = Row("0", "q", "2 + 2 = 4. The final answer is: 4")
    assert [PUBLISHED["gsm8k"].credit(row, answer) for answer in ("4.0", "4", "5", "four")] == [1, 1, 0, 0]


def test_a_metric_is_a_percentage_over_the_answers_that_have_a_credit() -> None:
    counted = Scored([1, 0, 1, None, 1], [{}] * 5)
    assert (counted.value, len(counted.known)) == (75, 4)
    assert counted.interval == wilson(3, 4)
    graded = Scored([0.5, 1.0], [{}] * 2, counts=False)
    assert (graded.value, graded.interval) == (75, None)
    for credits, counts in (([0.5], True), ([1.5], False), ([None], True)):
        with pytest.raises(ValueError, match="a metric's credits"):
            Scored(credits, [{}], counts=counts)
