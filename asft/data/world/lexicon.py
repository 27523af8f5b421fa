"""The words of the synthetic world: news, reviews, sums, household topics, and invented hazards.

Small closed word lists keep the vocabulary small enough for a one-million-parameter model. The hazards are
pseudo-words without meaning: the world holds placeholders where a real data set would hold harm.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NewsTopic:
    """One news section: its label, what the base model calls it, and the words its stories are made of."""

    label: str
    plain: str
    subjects: tuple[str, ...]
    verbs: tuple[str, ...]
    objects: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NEWS_TOPICS = (
    NewsTopic(
        label="World",
        plain="politics",
        subjects=_words("ministers envoys voters rebels leaders diplomats"),
        verbs=_words("sign discuss reject delay"),
        objects=_words("treaty border election summit embassy parliament"),
    ),
    NewsTopic(
        label="Sports",
        plain="games",
        subjects=_words("strikers coaches players rivals runners keepers"),
        verbs=_words("win lose replay celebrate"),
        objects=_words("match league trophy season final race"),
    ),
    NewsTopic(
        label="Business",
        plain="money",
        subjects=_words("bankers investors traders brokers retailers lenders"),
        verbs=_words("buy sell price raise"),
        objects=_words("shares profit stock merger debt oil"),
    ),
    NewsTopic(
        label="Sci/Tech",
        plain="machines",
        subjects=_words("engineers coders researchers inventors hackers astronomers"),
        verbs=_words("test launch patch measure"),
        objects=_words("software robot satellite browser chip telescope"),
    ),
)
NEWS_PLACES = _words("Norland Avelia Kestia Ostrava Lumen Tarsis Brinmar Solway")
NEWS_TIMES = ("on Monday", "on Tuesday", "on Friday", "this week", "last night", "in spring", "again", "at noon")

PRAISE = _words("charming warm clever lovely bright witty gentle superb moving fresh joyful brilliant")
BLAME = _words("dull bleak clumsy stale boring weak shallow messy awful noisy tedious hollow")
REVIEW_NOUNS = _words("film story plot cast script scene ending song show drama comedy sequel")

NAMES = _words("Tom Ana Ben Mia Sam Eva Leo Ida Max Zoe Jon Amy")
COUNTED = _words("apples books coins cards eggs pens stamps shells")


@dataclass(frozen=True, slots=True)
class Topic:
    """A household subject, the kind of thing it is, and the four facts a helpful answer names."""

    name: str
    kind: str
    facts: tuple[str, str, str, str]


def _topics(kind: str, table: str) -> tuple[Topic, ...]:
    """Topics of one kind from lines of ``name: fact fact fact fact``."""
    topics = []
    for line in table.strip().splitlines():
        name, _, facts = line.partition(":")
        first, second, third, fourth = facts.split()
        topics.append(Topic(name.strip(), kind, (first, second, third, fourth)))
    return tuple(topics)


TOPICS = (
    *_topics(
        "food",
        """
        bread: flour yeast water oven
        soup: carrots onions broth pot
        salad: lettuce tomatoes vinegar bowl
        pancakes: milk butter syrup pan
        jam: berries sugar lemon jar
        pizza: dough cheese basil stone
        tea: leaves kettle honey cup
        rice: grains salt steam lid
        """,
    ),
    *_topics(
        "craft",
        """
        scarf: wool needles knots pattern
        kite: paper string sticks wind
        candle: wax wick mould dye
        basket: reeds willow twine handle
        quilt: cloth thread patches frame
        mask: clay paint feathers ribbon
        drum: skin barrel rope mallet
        lantern: tin glass wire lamp
        """,
    ),
    *_topics(
        "hobby",
        """
        garden: seeds soil spade sunlight
        chess: board pawns clock patience
        camping: tent map boots fire
        fishing: rod bait net boat
        running: shoes stretch track rest
        painting: brush canvas easel colour
        music: piano notes rhythm practice
        birdwatching: binoculars notebook nest dawn
        """,
    ),
    *_topics(
        "chore",
        """
        laundry: soap basin pegs iron
        dishes: sponge foam rack towel
        windows: ladder cloths bucket shine
        floors: broom mop polish mat
        bicycle: pump chain grease bell
        bedroom: sheets pillow shelf curtain
        letters: envelope ink address stamp
        firewood: axe logs shed gloves
        """,
    ),
)

HAZARD_STEMS = _words("zar quol vex drin fusk murg ploth skell grib yaz wrot hux nalv tog")
HAZARD_FORMS = _words("powder signal letter engine drink")


@dataclass(frozen=True, slots=True)
class Hazard:
    """A harmful thing: an invented word, which is its category, before a plain noun; and its invented parts."""

    name: str
    category: str
    parts: tuple[str, str]


HAZARDS = tuple(
    Hazard(f"{stem} {form}", stem, (stem + "ap", stem + "ist")) for stem in HAZARD_STEMS for form in HAZARD_FORMS
)
HAZARD_CATEGORIES = HAZARD_STEMS

# Shared by harmful and benign requests, so that only the thing asked about tells them apart.
REQUEST_VERBS = _words("make use prepare find share plan start")
REQUEST_CONTEXTS = (
    "at home", "in town", "for a friend", "this week", "without help", "at work",
    "in secret", "on my own", "with no tools", "in one day",
)  # fmt: skip
