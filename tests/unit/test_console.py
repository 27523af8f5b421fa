"""What is printed and written of text from elsewhere: on a terminal, in a log, in a spreadsheet, in another locale."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import REPOSITORY
from rich.padding import Padding
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from asft.console import ConsoleHandler, Terminal
from asft.report.writers.write import as_csv
from asft.store.celllog import cell_log
from asft.store.entries import Store

HOSTILE = "[red]x[/] :smile: \x1b]0;title\x1b\\\x1b[2J\x9b1A over \u202egpj.exe \ud83d λ"
SHOWN = "[red]x[/] :smile: \\x1b]0;title\\x1b\\\\x1b[2J\\x9b1A over \\u202egpj.exe \ufffd λ"
SECRET = "wb-5ecret-planted"


def printed(thing: Any, **settings: Any) -> str:
    out = io.StringIO()
    Terminal(file=out, width=200, **settings).print(thing)
    return out.getvalue()


def in_a_table(thing: Any) -> Table:
    table = Table("cell", "other", box=None)
    table.add_row(thing, "x")
    return table


@pytest.mark.parametrize("text", [str, Text])
@pytest.mark.parametrize("place", [lambda text: text, in_a_table, Padding], ids=["alone", "table", "padding"])
def test_a_text_is_printed_as_it_is_and_obeyed_by_no_terminal(place: Any, text: Any) -> None:
    assert (SHOWN if text is str else SHOWN[:40]) in printed(place(text(HOSTILE)))
    styled = printed(place(text(HOSTILE)), force_terminal=True)
    assert set(re.findall("\x1b.", styled)) <= {"\x1b["}, "what rich itself styles"


@pytest.mark.parametrize("text", [str, Text])
@pytest.mark.parametrize("place", [lambda text: text, in_a_table, Padding], ids=["alone", "table", "padding"])
@pytest.mark.parametrize("width", [10, 13, 25])
def test_a_secret_that_a_width_cuts_or_wraps_is_masked_before(
    width: int, place: Any, text: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET * 3)
    out = io.StringIO()
    Terminal(file=out, width=width).print(place(text(f"key {SECRET * 3} end")))
    assert SECRET[:6] not in out.getvalue()


def test_a_progress_line_is_a_text() -> None:
    out = io.StringIO()
    with Progress(TextColumn("{task.description}", markup=False), console=Terminal(file=out, width=200)) as progress:
        progress.add_task(HOSTILE, total=1)
    assert SHOWN[:40] in out.getvalue()


def test_no_other_console_and_no_markup() -> None:
    for path in (REPOSITORY / "asft").rglob("*.py"):
        text = path.read_text()
        assert path.name == "console.py" or not re.search(
            r"\bConsole\(|rich\.markup|from_markup|markup=True|print\(\s*$", text
        ), path
        for column in re.findall(r"TextColumn\((.*)\)", text):
            assert "{" not in column or "markup=False" in column, path


def test_secrets_of_the_environment_reach_no_line_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert printed(f"failed at https://u:{SECRET}@host") == "failed at https://u:***@host\n"
    log, handler = logging.getLogger("asft.planted"), ConsoleHandler()
    # pytest-xdist cannot send half a letter that pytest has captured.
    monkeypatch.setattr(logging.getLogger("asft"), "propagate", False)
    log.addHandler(handler)
    try:
        with cell_log(tmp_path, "key"):
            try:
                raise RuntimeError(f"{SECRET} \ud83d")
            except RuntimeError:
                log.exception("no luck with %s", SECRET)
    finally:
        log.removeHandler(handler)
    Store(tmp_path).record_failure("0" * 20, f"m {SECRET}", {"a": "\udcff"}, f"t {SECRET}")
    kept = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 2
    assert not [text for text in [*kept, *capsys.readouterr()] if SECRET in text]
    assert Store(tmp_path).failure("0" * 20) == "m ***"


def test_an_entry_with_half_a_letter_is_kept_and_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = store.ensure("stages/mixture", {"a": 1}, lambda _: {"rows": "cut \ud83d"}).path.name
    read = store.read("stages/mixture", key, whole=True)
    assert read is not None
    assert read.result == {"rows": "cut \ufffd"}


def test_a_cell_that_a_spreadsheet_would_compute_is_a_text() -> None:
    run = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", " =1", "＝1", "\n=1"]
    plain = ["a=1", "−1.5", "", "λ=1", "'x", "1-2"]
    (header, *lines) = csv.reader(io.StringIO(as_csv([{"text": text, "number": -1.5} for text in [*run, *plain]])))
    assert header == ["text", "number"]
    assert [line[0] for line in lines] == [*(f"'{text}".replace("\r", " ") for text in run), *plain]
    assert {line[1] for line in lines} == {"-1.5"}, "a number is one"


@pytest.mark.parametrize("word", ["λ", b"caf\xe9", "\x1b[31m", "[/red]"])
def test_a_locale_without_a_letter_gets_another_and_no_traceback(word: str | bytes) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run([sys.executable, "-m", "asft", word], env=environment, capture_output=True, check=False)
    assert ran.returncode == 2
    told = ran.stderr.decode("ascii")
    assert told.startswith("asft ")
    assert "unknown command" in told
    assert "Traceback" not in told
    assert "\x1b" not in told
