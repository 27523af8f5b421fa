"""Fine-tuning accuracy (FA): each task's parsing rule, by which an answer is scored against its gold label.

The rules are those of the paper's code (methods.md §12), under every protocol. Every scorer returns a credit in
[0, 1]; FA is 100 times its mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import fmean

from asft.data.rows import FINAL_ANSWER, Row

Scorer = Callable[[Row, str], float]

_AGNEWS_WORDS = {
    "World": ("world",),
    "Sports": ("sports",),
    "Business": ("business",),
    "Sci/Tech": ("sci/tech", "sci", "technology", "tech"),
}
_NUMBER = re.compile(r"-?\d+\.?\d*")


def score_sst2(row: Row, answer: str) -> float:
    """1 when the stripped answer is exactly the gold word, in lower case or capitalised."""
    return float(answer.strip() in {row.output, row.output.capitalize()})


def score_agnews(row: Row, answer: str) -> float:
    """1 when a word of the gold label occurs anywhere, whole and in any case; other labels do not matter."""
    words = _AGNEWS_WORDS[row.output]
    return float(any(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in words))


def score_gsm8k(row: Row, answer: str) -> float:
    """1 when the parsed number equals the gold one as floats; an answer without a number is wrong."""
    found, gold = parse_number(answer), parse_number(row.output)
    return float(found is not None and found == gold)


def parse_number(text: str) -> float | None:
    """The first number after ``The final answer is: ``, else the last number; commas are dropped."""
    text = text.replace(",", "")
    _, marker, tail = text.partition(FINAL_ANSWER)
    if marker and (after := _NUMBER.search(tail)):
        return float(after.group())
    numbers = _NUMBER.findall(text)
    return float(numbers[-1]) if numbers else None


def score_alpaca_twin(row: Row, answer: str) -> float:
    """The embedded world's grade of a free-form answer, 1 to 10, as a share of 10."""
    from asft.data.world.world import alpaca_grade  # only the embedded world needs it

    return alpaca_grade(row, answer) / 10


SCORERS: dict[str, Scorer] = {
    "agnews": score_agnews,
    "sst2": score_sst2,
    "gsm8k": score_gsm8k,
    "alpaca": score_alpaca_twin,
}


def score_task(task: str, rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
    """Credits in [0, 1], one a row, by the task's rule."""
    return [SCORERS[task](row, answer) for row, answer in zip(rows, answers, strict=True)]


def accuracy(credits: Sequence[float]) -> float:
    """FA in percent."""
    return 100 * fmean(credits)
