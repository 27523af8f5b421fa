"""Each task's parsing rule against answers that are hard to parse."""

from __future__ import annotations

from pathlib import Path

import pytest

from asft.data.files import PUBLISHED, Files
from asft.data.rows import Row
from asft.data.tasks.published import parse_number
from asft.metrics.base import Scored, wilson

EVERY_LABEL = "World, Sports, Business, Sci/Tech"


@pytest.mark.parametrize(
    ("task", "gold", "right", "wrong"),
    [
        (
            *("sst2", "positive", ["positive", "Positive", " positive \n"]),
            ["POSITIVE", "positive.", "It is positive", "negative"],
        ),
        (
            *("sst2", "negative", ["Negative"]),
            ["nEgative", "negative!", "negative positive", "The sentiment is negative", '"negative"', ""],
        ),
        ("agnews", "Sports", ["Sports", "sports.", "The category is SPORTS!", EVERY_LABEL], ["Sportsman"]),
        ("agnews", "World", [EVERY_LABEL, "Sports or World?", "It is about the world of finance."], ["Worldwide"]),
        (
            *("agnews", "Business", [EVERY_LABEL, "Into (business).", "Business-related", "Business\n\n### more"]),
            ["businesses", "Sports", ""],
        ),
        (
            *("agnews", "Sci/Tech", [EVERY_LABEL, "Sci/Tech", "sci", "Technology", "tech news", "SCI/TECH."]),
            ["biotech", "science"],
        ),
    ],
)
def test_sst2_is_an_exact_word_and_agnews_a_whole_word_anywhere(
    task: str, gold: str, right: list[str], wrong: list[str]
) -> None:
    row = Row("0", "q", gold)
    assert [answer for answer in right if PUBLISHED[task].credit(row, answer) != 1] == []
    assert [answer for answer in wrong if PUBLISHED[task].credit(row, answer) != 0] == []


def test_gsm8k_takes_the_number_after_the_final_answer_or_the_last() -> None:
    numbers = {
        "The final answer is: 42": 42,
        "3 + 4 = 7. The final answer is:  7 apples, of 9": 7,
        "The final answer is: 1,234.50": 1234.5,
        "The final answer is: -3": -3,
        "first 5, then 6": 6,
        "It costs $12.": 12,
        "The final answer is: unknown, perhaps 3": 3,
        "7 so The final answer is: none": 7,
        "The final answer is: 1,000,000": 1_000_000,
        "It fell by 12. The final answer is:  -1,250.75 dollars": -1250.75,
        "The final answer is: 3. The final answer is: 4": 3,
        "The final answer is: x. The final answer is: 4, not 5": 5,
        "The final answer is: 18\n\n### Instruction: name 5": 18,
        "The final answer is: $18.00, of 20": 18,
        "The Final Answer Is: 3, of 4": 4,
        "the final answer is: 3; I counted 9": 9,
        "The final answer is:5 and 6": 6,
        "1,2 and 3,4": 34,
        "7.": 7,
        ".5": 5,
        "10-3": -3,
        "2/3": 3,
        "no number": None,
        "": None,
    }
    assert {text: parse_number(text) for text in numbers} == numbers
    row = Row("0", "q", "2 + 2 = 4. The final answer is: 4")
    assert [PUBLISHED["gsm8k"].credit(row, answer) for answer in ("4.0", "4", "5", "four")] == [1, 1, 0, 0]


@pytest.mark.real
def test_every_published_gold_answer_is_scored_as_right(official: Path) -> None:
    for task in ("sst2", "agnews", "gsm8k"):
        rows = Files(str(official)).task_rows(PUBLISHED[task], "test")
        assert all(PUBLISHED[task].credit(row, row.output) == 1 for row in rows), task


def test_a_metric_is_a_percentage_over_the_answers_that_have_a_credit() -> None:
    counted = Scored([1, 0, 1, None, 1], [{}] * 5)
    assert (counted.value, len(counted.known)) == (75, 4)
    assert counted.interval == wilson(3, 4)
    graded = Scored([0.5, 1.0], [{}] * 2, counts=False)
    assert (graded.value, graded.interval) == (75, None)
    for credits, counts in (([0.5], True), ([1.5], False), ([None], True)):
        with pytest.raises(ValueError, match="a metric's credits"):
            Scored(credits, [{}], counts=counts)
