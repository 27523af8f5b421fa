"""Which words of a request are worth disguising: those that carry its content."""

from __future__ import annotations

import re

WORD = re.compile(r"[A-Za-z]+")

# Function words, what an apostrophe leaves of them, and the words by which one asks for an answer.
_GIVING_NOTHING_AWAY = """
    a about above after again against all also am an and answer any anyone are aren as at be because been before
    being below between both but by can could couldn create describe detailed develop did didn do does doesn doing
    don down during each else every example examples explain explaining few for from further generate get give guide
    had has have having he help her here hers him his how i if in instruction instructions into is isn it its itself
    just like list ll make many may me might more most much must my myself need needed no nor not now of off on once
    one ones only or other our ours out over own please provide put question re same shall she should shouldn show
    so some somebody someone something step steps such suggest teach tell than that the their theirs them then there
    these they think this those through to too under until up us use using ve very want was way ways we were what
    when where whether which while who whom whose why will with without won would wouldn write you your yours
    yourself
"""
STOP_WORDS = frozenset(_GIVING_NOTHING_AWAY.split())


def content_words(text: str) -> list[re.Match[str]]:
    """The places of the words in ``text`` that carry content, in order: two letters or more, and no stop word."""
    return [match for match in WORD.finditer(text) if len(match[0]) > 1 and match[0].lower() not in STOP_WORDS]
