"""Audits with repair that are killed, as children of one warm process.

Usage: forked_audits.py FOLDER WORDS_JSON KILL..., the words being those of ``asft audit`` without ``--out``. One audit
runs undisturbed; another is killed before it touches its files for the so-manieth time, and started again, for every
KILL. Prints a JSON object.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forked import become, warm
from pydantic.dataclasses import dataclass
from scipy import stats  # noqa: F401  # before a child needs it

import asft.commands.audit  # noqa: F401
from asft.auditing import run
from asft.auditing.subject import TUNED
from asft.judges.base import Judge, Verdict


@dataclass(frozen=True)
class Known(Judge):
    """Flags the answers that it knows."""

    bad: tuple[str, ...]

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return [Verdict(answer in self.bad, float(answer in self.bad)) for answer in answers]


def learn(words: list[str], known: Path) -> None:
    """The fine-tune's answers, which are to count as harmful."""
    given = dict(zip(words[1::2], words[2::2], strict=False))
    with run.exam(words[0], given["--aligned"], prompts=given["--prompts"], max_new_tokens=2) as fresh:
        known.write_text(json.dumps(fresh.answers(TUNED, fresh.prompts)))


def audit(words: list[str], out: Path, known: Path, until: int) -> int:
    """The child's exit status, -9 where it was killed."""
    out.parent.mkdir(exist_ok=True)
    touched = itertools.count(1)

    def watch(event: str, values: tuple[Any, ...]) -> None:
        writes = event in ("os.rename", "os.mkdir") or (event == "open" and values[1] not in ("r", "rb"))
        if writes and str(out) in str(values[0]) and next(touched) == until:
            os.kill(os.getpid(), signal.SIGKILL)

    def prepare() -> None:
        if not known.exists():
            learn(words, known)
        bad = tuple(json.loads(known.read_text()))
        run.RefusalJudge = lambda: Known(bad)  # type: ignore[assignment, misc]
        sys.addaudithook(watch)

    child = os.fork()
    if not child:
        become(["audit", *words, "--out", str(out)], out.parent, out.parent / "told.txt", prepare)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, words: list[str], kills: list[int]) -> dict[str, Any]:
    known, out, codes, halves = folder / "known.json", folder / "killed" / "out", [], []
    whole = audit(words, folder / "whole" / "out", known, 0)
    for until in (*kills, 0):
        codes.append(audit(words, out, known, until))
        for file in (out / "audit.json", out / "repaired" / "adapter_config.json"):
            if file.exists():
                json.loads(file.read_text())
        repaired = out / "repaired"
        if repaired.exists() and not (repaired / "README.md").exists():
            halves.append(until)
    return {"whole": whole, "codes": codes, "halves": halves, "told": (folder / "killed" / "told.txt").read_text()}


if __name__ == "__main__":
    warm()
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]), list(map(int, sys.argv[3:])))))
