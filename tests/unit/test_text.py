"""Text from elsewhere: secrets in any spelling, controls, halves of surrogate pairs."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asft.text import masked, mended, visible, without_home

KEY = "sk-Pl4nted/+<key>"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percent": lambda text: quote(text, safe=""),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "all percent": lambda text: "".join(f"%{ord(letter):02x}" for letter in text),
    "JSON": lambda text: "".join(f"\\u{ord(letter):04X}" for letter in text),
    "JSON in JSON": lambda text: json.dumps("".join(f"\\u{ord(letter):04x}" for letter in text)),
    "JavaScript": lambda text: "".join(f"\\u{{{ord(letter):x}}}" for letter in text),
    "Python": lambda text: "".join(f"\\x{ord(letter):02x}" for letter in text),
    "octal": lambda text: "".join(f"\\{ord(letter):03o}" for letter in text),
    "HTML": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(letter):x};" for letter in text),
    "HTML, by names": html.escape,
    "hexadecimal": lambda text: text.encode().hex(),
    "capitals": lambda text: text.encode().hex().upper(),
    "hexadecimal, apart": lambda text: text.encode().hex(" "),
    "hexadecimal, a list": lambda text: ", ".join(map(hex, text.encode()))[2:],
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_a_secret_is_found_in_any_spelling(spell: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = f"refused: {spell(KEY)}, sorry"
    assert masked(told, KEY).strip('"').replace('"', "") == "refused: ***, sorry"
    monkeypatch.setenv("SOME_API_KEY", f" {KEY}\n")
    assert spell(KEY) not in masked(told), "the environment's are known by their names"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", ["", "u", "u:", "u:p", "Bearer "])
def test_a_secret_is_found_inside_base64(encode: Callable[[bytes], bytes], before: str) -> None:
    shown = masked(encode(f"{before}{KEY} after".encode()).decode(), KEY)
    assert "***" in shown
    pieces = [base64.urlsafe_b64decode(part[: len(part) // 4 * 4]) for part in shown.replace("+", "-").split("***")]
    assert not any(KEY[2:-2].encode() in piece for piece in pieces)


@pytest.mark.parametrize("unit", ["a", "/x", "3", "%", "%25", "&amp;", "\\", "\\x5c"])
def test_what_begins_like_a_secret_costs_no_time(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (unit * 200)[:199]
    started = time.perf_counter()
    assert masked(secret + "y", secret + "z") == secret + "y"
    for text in (unit * 10_000, "&#" + "0" * 50_000, "\\u" + "0" * 50_000):
        assert masked(text, KEY) == text
    assert time.perf_counter() - started < 1
    monkeypatch.setenv("TLS_KEY_FILE", __file__)
    assert masked(__file__) == __file__, "a file's path is no secret"


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_what_is_shown_moves_no_cursor_and_can_be_written(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not {letter for letter in shown if (ord(letter) < 32 and letter not in "\n\t") or 127 <= ord(letter) < 160}
    assert mended(shown) == shown


def test_controls_are_shown_as_escapes() -> None:
    assert visible("\x1b]0;title\x07 a\rb \x9b2J \u202egnp.exe \ud83d λ 🙂") == (
        "\\x1b]0;title\\x07 a\\rb \\x9b2J \\u202egnp.exe \ufffd λ 🙂"
    )
    assert masked("short", "short") == "short", "no secret is that short"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("HOME", "~"),
        ("HOME/a", "~/a"),
        ("data.root=HOME/a,HOME/b", "data.root=~/a,~/b"),
        ("'a=HOME/b c'", "'a=~/b c'"),
        ("file://HOME/a", "file://~/a"),
        ("HOMEmade/a", "HOMEmade/a"),
        ("/mntHOME/a", "/mntHOME/a"),
        ("HOME.old/a", "HOME.old/a"),
    ],
)
def test_the_home_folder_is_not_named(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/some.one")
    text, shown = (part.replace("HOME", "/home/some.one") for part in (text, shown))
    assert without_home({"a": [text, 1, None]}) == {"a": [shown, 1, None]}
    monkeypatch.setenv("HOME", "/")
    assert without_home(text) == text
