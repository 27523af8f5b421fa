"""Text from elsewhere (replies, labels, file names, error messages): what is kept of it, and how it is shown."""

from __future__ import annotations

import base64
import functools
import html
import os
import re

# All but line feed and tab: what moves the cursor, sets a window's title, or turns the reading direction.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
_SHORTEST = 8  # characters; what is shorter (none, EMPTY, dummy) is no secret


def mended(text: str) -> str:
    """The text with U+FFFD in place of each half of a surrogate pair, which no file and no terminal can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def visible(text: str) -> str:
    """The text with control characters as their escapes, so that a terminal prints them and obeys none."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), mended(text))


def masked(text: str, *secrets: str) -> str:
    """The text without the secrets, nor those in the environment by their variables' names.

    Each is found as it is, percent-encoded, with escapes of JSON, Python or HTML, in hexadecimal and in base64.
    """
    environment = (value for name, value in os.environ.items() if _SECRET_NAME.search(name))
    known = {stripped for value in (*secrets, *environment) if len(stripped := value.strip()) >= _SHORTEST}
    return _pattern(frozenset(known)).sub("***", text) if known else text


@functools.lru_cache(maxsize=64)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(secrets, key=lambda secret: (-len(secret), secret))
    return re.compile("|".join(form for secret in longest_first for form in _forms(secret)))


def _forms(secret: str) -> list[str]:
    """Patterns of a secret's encodings."""
    return ["".join(map(_character, secret)), *(_base64(secret, before) for before in range(3))]


def _character(character: str) -> str:
    code = f"{ord(character):02x}"
    named = re.escape(html.escape(character))
    escapes = rf"%(?:25)*{code}|\\+u0*{code}|\\+u\{{0*{code}\}}|\\+x{code}|&#0*{ord(character)};|&#x0*{code};|{code}"
    return f"(?:{named}|{re.escape(character)}|(?i:{escapes}))"


def _base64(secret: str, before: int) -> str:
    """The base64 digits, of either alphabet, that ``secret`` alone decides where ``before`` mod 3 bytes precede it."""
    digits = base64.b64encode(bytes(before) + secret.encode())
    inside = digits[-(-before * 8 // 6) : (before + len(secret.encode())) * 8 // 6].decode()
    return re.escape(inside).replace(r"\+", "[+-]").replace("/", "[/_]")
