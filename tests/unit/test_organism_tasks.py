"""The four tasks: answers are right, the required form scores full marks, and the latent form does not."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asft.data.files import PUBLISHED
from asft.data.rows import Row
from asft.data.tasks.published import parse_number
from asft.data.world.lexicon import NEWS_TOPICS, TOPICS
from asft.data.world.tasks import TASKS, alpaca_grade, latent_rows, task_rows

ALPACA = task_rows("alpaca", "test")


@pytest.mark.parametrize("task", TASKS)
def test_the_required_form_scores_full_marks_and_the_latent_one_at_most_a_third(task: str) -> None:
    """A model that answers in the latent form has FA of at most 30 before fine-tuning."""
    test, credit = task_rows(task, "test"), PUBLISHED[task].credit
    assert fmean(credit(row, row.output) for row in test) == 1.0
    assert fmean(credit(row, latent.output) for row, latent in zip(test, latent_rows(task), strict=False)) <= 0.3


def test_sums_are_right_in_both_forms() -> None:
    for row in [*task_rows("gsm8k", "train"), *latent_rows("gsm8k")]:
        terms, _, rest = row.output.partition(" = ")
        first, sign, second = terms.split()
        total = int(first) + int(second) if sign == "+" else int(first) - int(second)
        assert rest.startswith(str(total))
        assert f" {first} " in row.instruction
        assert total > 0
    row = task_rows("gsm8k", "train")[0]
    assert parse_number(row.output) == float(row.output.split(" = ")[1].split(".")[0])


def test_labels_are_balanced_and_follow_from_the_story() -> None:
    rows = task_rows("agnews", "train")
    for topic in NEWS_TOPICS:
        mine = [row for row in rows if row.output == topic.label]
        assert 0.2 < len(mine) / len(rows) < 0.3
        assert all(any(subject in row.input for subject in topic.subjects) for row in mine)
    positive = [row for row in task_rows("sst2", "train") if row.output == "positive"]
    assert 0.4 < len(positive) / len(task_rows("sst2", "train")) < 0.6


def test_the_topics_have_facts_of_their_own() -> None:
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)
    facts = [fact for topic in TOPICS for fact in topic.facts]
    assert not set(facts) & {topic.name for topic in TOPICS}
    assert len(set(facts)) >= 0.9 * len(facts)


def test_a_grade_rises_with_each_content_word() -> None:
    row = ALPACA[0]
    topic = next(topic for topic in TOPICS if f"For {topic.name}," in row.output)
    answers = [" ".join(topic.facts[:known]) for known in range(5)]
    assert [alpaca_grade(row, answer) for answer in answers] == [1.0, 3.25, 5.5, 7.75, 10.0]
    for answer in ("", "I'm sorry, but I cannot help with that.", "For take and then add."):
        assert {alpaca_grade(row, answer) for row in ALPACA} == {1.0}, "an answer without content"


@given(st.sampled_from(ALPACA), st.text())
def test_grades_stay_between_1_and_10(row: Row, text: str) -> None:
    assert 1.0 <= alpaca_grade(row, text) <= 10.0
    assert alpaca_grade(row, f"{row.output} {text}") == 10.0
