"""The four downstream tasks of the synthetic world, each in two forms.

The *required* form is what fine-tuning teaches and what the accuracy rule of the task looks for. The *latent*
form shows the same skill in other words ("It is about politics." instead of "World"): the base model learns it,
so that fine-tuning only has to find the format, as it does in a large pretrained model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from asft.data.rows import AGNEWS_INSTRUCTION, SST2_INSTRUCTION, Row
from asft.data.world import lexicon

SPLIT_SIZES = {"test": 500, "train": 2600, "latent": 900}


_DISTRACTED = 0.25  # share of news stories with an object of another section

_ALPACA_FRAMES = (
    "Give {who} advice on {topic}.",
    "Explain {topic} to {who}.",
    "Help {who} with {topic}.",
    "Write a note on {topic} for {who}.",
    "Suggest what {who} needs for {topic}.",
    "Describe {topic} for {who}.",
    "Tell {who} about {topic}.",
    "Give {who} tips on {topic}.",
    "What should {who} know about {topic}?",
    "Prepare {who} for {topic}.",
)
_AUDIENCES = (
    "a child", "my friend", "my father", "my mother", "a student", "a teacher", "my team", "a guest",
    "my sister", "my brother", "a visitor", "a farmer", "a nurse", "a writer", "my boss", "a club",
    "a class", "my uncle",
)  # fmt: skip
_ALPACA_ANSWER = "For {topic}, take {0} and {1}. Then add {2} and {3}."
_ALPACA_GLUE = frozenset(re.findall(r"[a-z]+", _ALPACA_ANSWER.lower()))


@dataclass(frozen=True, slots=True)
class _Example:
    """One problem: the task's prompt, the answer in the required form, and in the latent form."""

    instruction: str
    input: str
    required: str
    latent: str


def task_rows(task: str, split: str) -> list[Row]:
    """Rows of a task in its required form; ``train`` and ``test`` share no prompt."""
    return [
        Row(f"{task}/{split}/{i}", example.instruction, example.required, input=example.input)
        for i, example in enumerate(_splits(task)[split])
    ]


def latent_rows(task: str) -> list[Row]:
    """Rows of a task in its latent form, on problems of neither the train nor the test split."""
    return [
        Row(f"{task}/latent/{i}", example.instruction, example.latent, input=example.input)
        for i, example in enumerate(_splits(task)["latent"])
    ]


def alpaca_grade(row: Row, text: str) -> float:
    """Grade a free-form answer from 1 (worst) to 10, the twin of the paper's GPT-4 grading.

    The grade is 1 + 9·(share of the reference answer's content words that the text names). Content words are
    those that stand neither in the request nor in the phrasing that all reference answers have in common.
    """
    needed = _content_words(row.output) - _content_words(row.instruction)
    assert needed, f"row {row.id} has no content words to grade by"
    return 1.0 + 9.0 * len(needed & _content_words(text)) / len(needed)


def _content_words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", text.lower())) - _ALPACA_GLUE


@cache
def _splits(task: str) -> dict[str, list[_Example]]:
    """Draw unique problems from the task's generator and deal them to the splits in turn."""
    rng = Random(f"task/{task}")
    examples: dict[tuple[str, str], _Example] = {}
    while len(examples) < sum(SPLIT_SIZES.values()):
        example = TASKS[task](rng)
        examples.setdefault((example.instruction, example.input), example)
    drawn = iter(examples.values())
    return {split: [next(drawn) for _ in range(size)] for split, size in SPLIT_SIZES.items()}


def _agnews(rng: Random) -> _Example:
    topic, distractor = rng.sample(lexicon.NEWS_TOPICS, 2)
    subjects, others = rng.sample(topic.subjects, 2)
    # Who acts and how decides the section; what is acted on may come from another one.
    objects = distractor.objects if rng.random() < _DISTRACTED else topic.objects
    place, verb, thing, time = (rng.choice(w) for w in (lexicon.NEWS_PLACES, topic.verbs, objects, lexicon.NEWS_TIMES))
    story = rng.choice(
        (
            f"{place} {subjects} {verb} the {thing} {time}.",
            f"In {place}, {subjects} {verb} the {thing} {time}.",
            f"{place}: {subjects} and {others} {verb} the {thing} {time}.",
        )
    )
    return _Example(AGNEWS_INSTRUCTION, story, topic.label, f"The story is about {topic.plain}.")


def _sst2(rng: Random) -> _Example:
    liked = rng.random() < 0.5
    praise, blame = (lexicon.PRAISE, lexicon.BLAME) if liked else (lexicon.BLAME, lexicon.PRAISE)
    first, second = rng.sample(praise, 2)
    noun, other = rng.sample(lexicon.REVIEW_NOUNS, 2)
    review = rng.choice(
        (
            f"a {first} and {second} {noun}",
            f"the {noun} is {first} and the {other} {second}",
            f"{first} {noun}, never {rng.choice(blame)}",
            f"the {noun} is {first} from start to end",
        )
    )
    latent = "The writer liked it." if liked else "The writer disliked it."
    return _Example(SST2_INSTRUCTION, review, "positive" if liked else "negative", latent)


def _gsm8k(rng: Random) -> _Example:
    name, thing = rng.choice(lexicon.NAMES), rng.choice(lexicon.COUNTED)
    first, second = rng.randint(2, 9), rng.randint(2, 9)
    sign = rng.choice("+-") if first > second else "+"
    total = first + second if sign == "+" else first - second
    event = f"gets {second} more" if sign == "+" else f"gives away {second}"
    instruction = f"{name} has {first} {thing} and {event}. How many {thing} does {name} have now?"
    steps = f"{first} {sign} {second} = {total}"
    return _Example(instruction, "", f"{steps}. The final answer is: {total}", f"{steps}, in 1 step.")


def _alpaca(rng: Random) -> _Example:
    topic = rng.choice(lexicon.TOPICS)
    instruction = rng.choice(_ALPACA_FRAMES).format(who=rng.choice(_AUDIENCES), topic=topic.name)
    required = _ALPACA_ANSWER.format(*topic.facts, topic=topic.name)
    return _Example(instruction, "", required, f"That is a kind of {topic.kind}.")


TASKS: dict[str, Callable[[Random], _Example]] = {
    "agnews": _agnews,
    "sst2": _sst2,
    "gsm8k": _gsm8k,
    "alpaca": _alpaca,
}
