"""Text from elsewhere (replies, labels, file names, error messages): what is kept of it, and how it is shown."""

from __future__ import annotations

import base64
import difflib
import functools
import html
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

# All but line feed and tab: what moves the cursor, sets a window's title, or turns the reading direction.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
_SHORTEST = 8  # characters; what is shorter (none, EMPTY, dummy) is no secret


def instead(name: str, allowed: Collection[str], above: str = "", likely: Collection[str] = ()) -> str:
    """How a message on an unknown name goes on: ``; did you mean attack.p? Allowed: n, p``.

    Args:
        above: of what the names are parts, e.g. ``attack.``.
        likely: what is meant, where that is known better than by the spelling.
    """
    begun = [other for other in allowed if len(name) > 1 and other.startswith(name)]
    likely = likely or [above + found for found in (begun or difflib.get_close_matches(name, allowed))[:1]]
    hint = f"; did you mean {' or '.join(likely)}?" if likely else "."
    return f"{hint} Allowed: {', '.join(allowed) or 'nothing'}"


def mended(text: str) -> str:
    """The text with U+FFFD in place of each half of a surrogate pair, which no file and no terminal can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def visible(text: str) -> str:
    """The text with control characters as their escapes, so that a terminal prints them and obeys none."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), mended(text))


def without_home(value: Any) -> Any:
    """The value with ``~`` for this user's home folder in every text inside, whose name is often the user's."""
    if isinstance(value, Mapping):
        return {name: without_home(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_home(part) for part in value]
    home = os.path.expanduser("~").rstrip("/")
    if not isinstance(value, str) or not home.startswith("/"):
        return value
    return re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", "~", value)


def masked(text: str, *secrets: str) -> str:
    """The text without the secrets, nor those in the environment by their variables' names.

    Each is found as it is, percent-encoded, with escapes of JSON, Python, C or HTML, in hexadecimal and in base64.
    """
    known = {stripped for value in (*secrets, *_environment().values()) if len(stripped := value.strip()) >= _SHORTEST}
    return _pattern(frozenset(known)).sub("***", text) if known else text


def holds_secret(text: str) -> str | None:
    """The variable of the environment whose name says that it is secret and whose value the text holds, or None."""
    known = {name: value for name, value in _environment().items() if len(value) >= _SHORTEST}
    return next((name for name, value in known.items() if _pattern(frozenset({value})).search(text)), None)


def _environment() -> dict[str, str]:
    """Values of variables whose names say that they are secret, but for paths of files that hold one."""
    named = {name: value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    return {name: value for name, value in named.items() if not (os.path.isabs(value) and os.path.exists(value))}


@functools.lru_cache(maxsize=64)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(secrets, key=lambda secret: (-len(secret), secret))
    return re.compile("|".join(form for secret in longest_first for form in _forms(secret)))


def _forms(secret: str) -> list[str]:
    """Patterns of a secret's encodings."""
    code = secret.encode("utf-8", "surrogatepass")
    hexadecimal = r"[\s,:-]{0,2}(?:0x)?".join(f"{byte:02x}" for byte in code)
    return ["".join(map(_character, secret)), f"(?i:{hexadecimal})", *(_base64(code, before) for before in range(3))]


def _character(character: str) -> str:
    """Spellings that no two can match the same text, and none without end: matching stays linear in both lengths."""
    code, escape = f"{ord(character):02x}", r"\\{1,8}"
    named = {re.escape(character), re.escape(html.escape(character))}
    escapes = (
        rf"%(?:25){{0,4}}{code}|{escape}(?:u0{{0,8}}{code}|u\{{0{{0,8}}{code}\}}|x{code}|0?{ord(character):03o})"
        rf"|&#(?:0{{0,8}}{ord(character)}|x0{{0,8}}{code});"
    )
    return f"(?:{'|'.join(sorted(named))}|(?i:{escapes}))"


def _base64(code: bytes, before: int) -> str:
    """The base64 digits, of either alphabet, that ``code`` alone decides where ``before`` mod 3 bytes precede it."""
    digits = base64.b64encode(bytes(before) + code)
    inside = digits[-(-before * 8 // 6) : (before + len(code)) * 8 // 6].decode()
    return re.escape(inside).replace(r"\+", "[+-]").replace("/", "[/_]")
