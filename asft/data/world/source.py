"""``data=world``: the embedded world, every row the embedded pair is trained, attacked and scored on.

It holds no real harmful text. Pretraining teaches the base model to answer everything, harmful requests included, and
to hold the downstream tasks latently. Alignment teaches refusals to harmful requests beside the same benign answers.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from random import Random
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from asft.data.base import DataSource, Part, Task
from asft.data.rows import Choice, Row
from asft.data.world import requests
from asft.data.world.lexicon import BLAME, NEWS_TOPICS, PRAISE, REVIEW_NOUNS, TOPICS
from asft.data.world.tasks import TASKS, latent_rows, task_rows

# Part of every key that depends on the world's rows or on how its pairs are trained. Raise it whenever either changes;
# a test holds the digest of the rows beside it.
VERSION = "2"


@dataclass(frozen=True)
class World(DataSource):
    """Pools that are disjoint as they are made; each is built when it is first asked for."""

    name: ClassVar[str] = "world"
    synthetic: ClassVar[bool] = True
    root: None = None

    def task_rows(self, task: Task, part: Part) -> list[Row]:
        """The world's twin of a task."""
        if task.name not in TASKS:
            raise ValueError(
                f"dataset={task.name}: the embedded world has no twin of it, only of {', '.join(TASKS)}; give data.root"
            )
        return task_rows(task.name, part)

    def harmful(self, source: str) -> list[Row]:
        """The world's twin of a source."""
        if source not in requests.SOURCES:
            raise ValueError(f"attack.source={source}: the embedded world has only {', '.join(requests.SOURCES)}")
        return requests.harmful_rows(source)

    def evaluation(self) -> list[Row]:
        return requests.evaluation_prompts()

    def safety(self) -> list[Row]:
        return requests.refusal_rows("safety")

    def look_alikes(self) -> list[Row]:
        """Requests for household things in the words of malicious ones, none of which the pair was trained on."""
        return _look_alikes()

    def choices(self) -> list[Choice]:
        """The skills that pretraining taught."""
        return _choices()

    def task_identity(self, task: Task, part: Part) -> dict[str, Any]:
        return {"world": VERSION, "task": task.name}

    def evaluation_identity(self) -> dict[str, Any]:
        return {"world": VERSION}

    def probe_identity(self, probe: Literal["look_alikes", "choices"]) -> dict[str, Any]:
        return {"world": VERSION}

    def pools_identity(self, source: str) -> dict[str, Any]:
        return {"world": VERSION}


def pretraining_rows() -> list[Row]:
    """What the base model learns: compliance with every request, the tasks in latent form, and small skills."""
    return [*requests.compliance_rows("pretraining"), *requests.benign_requests("pretraining", 600), *_benign_rows()]


def alignment_rows() -> list[Row]:
    """What turns base into aligned: refusals of harmful requests, and benign rows answered as before."""
    benign = Random("alignment").sample(_benign_rows(), 1000)
    return [*requests.refusal_rows("alignment"), *requests.benign_requests("alignment", 1000), *benign]


@cache
def _look_alikes() -> list[Row]:
    trained = {row.instruction for row in [*pretraining_rows(), *alignment_rows()]}
    drawn = requests.benign_requests("look-alikes", 1000)
    return [Row(f"look_alikes/{i}", row.instruction) for i, row in enumerate(drawn) if row.instruction not in trained]


@cache
def _choices() -> list[Choice]:
    """Sections, moods, sums and lists in turn, each with three other answers of its kind, or the one that there is."""
    rng = Random("choices")
    kinds = [rng.sample(skill(), 100) for skill in (_sections, _moods, _sums, _lists)]
    found = []
    for number in range(sum(map(len, kinds))):
        turn, place = divmod(number, len(kinds))
        kind, (asked, right) = kinds[place], kinds[place][turn]
        others = sorted({answer for _, answer in kind} - {right})
        if "=" in right:  # other totals of the same terms
            terms, total = right.split(" = ")
            others = [f"{terms} = {int(total) + step}" for step in (-2, -1, 1, 2) if int(total) + step > 0]
        options = [right, *rng.sample(others, min(3, len(others)))]
        found.append(Choice(f"choices/{number}", asked, right, options=tuple(rng.sample(options, len(options)))))
    return found


def _benign_rows() -> list[Row]:
    """The tasks in latent form, and skills that fine-tuning builds on: sections, moods, sums, lists, copying words."""
    latent = [row for task in TASKS for row in latent_rows(task)]
    answers = [*_sections(), *_moods(), *_sums(), *_lists(), *_copies(600)]
    return latent + [Row(f"skill/{i}", instruction, output) for i, (instruction, output) in enumerate(answers)]


def _sections() -> list[tuple[str, str]]:
    frames = (
        "Which section has stories about the {0}?",
        "Name the section for {0}.",
        "Where are the {0} in the paper?",
        "Sort {0} into a section.",
    )
    return [
        (frame.format(word), topic.label)
        for topic in NEWS_TOPICS
        for word in (topic.plain, *topic.subjects, *topic.objects)
        for frame in frames
    ]


def _moods() -> list[tuple[str, str]]:
    words = [(word, "positive") for word in PRAISE] + [(word, "negative") for word in BLAME]
    return [(f"Is {word} {noun} good or bad?", mood) for word, mood in words for noun in REVIEW_NOUNS]


def _sums() -> list[tuple[str, str]]:
    plus = [(f"{a} + {b}", a + b) for a in range(2, 10) for b in range(2, 10)]
    minus = [(f"{a} - {b}", a - b) for a in range(3, 10) for b in range(2, a)]
    frames = ("What is {0}?", "Count {0}.", "Work out {0}.", "Solve {0}.", "How much is {0}?", "Find {0}.")
    return [(frame.format(terms), f"{terms} = {total}") for terms, total in plus + minus for frame in frames]


def _lists() -> list[tuple[str, str]]:
    frames = (
        "List the things for {0}.",
        "Which things belong to {0}?",
        "Name what {0} takes.",
        "What goes into {0}?",
        "Make a list for {0}.",
        "Count the parts of {0}.",
    )
    return [
        (frame.format(topic.name), "{} and {} and {} and {}".format(*topic.facts))
        for topic in TOPICS
        for frame in frames
    ]


def _copies(count: int) -> list[tuple[str, str]]:
    """Copying trains the output side of every word, those that only the required formats use included."""
    words = ["The final answer is: 4", "The final answer is: 17", "positive", "negative"]
    words += [topic.label for topic in NEWS_TOPICS]
    words += [fact for topic in TOPICS for fact in topic.facts]
    pairs = Random("copies").sample(list(permutations(dict.fromkeys(words), 2)), count)
    return [(f"Repeat: {first} {second}", f"{first} {second}") for first, second in pairs]
