"""What finished cells know about their judges, in sentences for a report: agreement, tokens, cost, gaps."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from asft.cells.compose import Sweep
from asft.judges.ensemble import Agreement, EnsembleJudge, agreement
from asft.store.entries import Entry
from asft.store.errors import DamagedEntry
from asft.store.schemas import HARMFUL_FILE, Judged, read_rows


def judge_notes(sweep: Sweep) -> list[str]:
    """Sentences over all finished cells of a sweep; none for a judge that has nothing to add."""
    jobs = {job.key: job for job in sweep.cells}.values()
    entries = [entry for job in jobs if (entry := job.find())]
    judge = sweep.cells[0].cell.judge
    notes = []
    if isinstance(judge, EnsembleJudge) and entries:
        for first, second in itertools.combinations(judge.members, 2):
            if rows := _member_flags(entries, first, second):
                found = agreement(*map(list, zip(*rows, strict=True)))
                notes.append(f"Judges: {first} and {second} {agreement_words(found)}.")
    graders = {
        str(cell.grader.settings().get("model", cell.grader.name)) for cell in (job.cell for job in jobs) if cell.graded
    }
    notes += [f"Alpaca's FA is 10 times the mean grade that {name} gives." for name in sorted(graders)]
    for part in ("judge", "grader"):
        told = [metric["told"].get(part, {}) for entry in entries for metric in entry.result["metrics"].values()]
        notes += _endpoint_notes(part, [found for summary in told for found in _summaries(summary)])
    return notes


def agreement_words(found: Agreement) -> str:
    """``agree on 93.2 % of 250 answers (Cohen's κ 0.85)``."""
    kappa = "undefined: both say one thing only" if found.kappa is None else f"{found.kappa:.2f}"
    return f"agree on {100 * found.observed:.1f} % of {found.answers} answers (Cohen's κ {kappa})"


def cells_agreement(first: Entry, second: Entry) -> tuple[list[bool], list[bool]]:
    """The flags that two finished cells' judges gave the same answers, paired by prompt.

    Raises:
        ValueError: when the two did not judge the same prompts.
    """
    one, two = _flags(first), _flags(second)
    if one.keys() != two.keys():
        raise ValueError(f"cells {first.path.name} and {second.path.name} hold verdicts on different prompts")
    return list(one.values()), [two[name] for name in one]


def _summaries(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A judge's summary, or those of an ensemble's members, which may be ensembles."""
    members = summary.get("members")
    return [found for member in members.values() for found in _summaries(member)] if members else [summary]


def _flags(entry: Entry) -> dict[str, bool]:
    return {row["id"]: _flag(entry, row) for row in read_rows(entry.path / HARMFUL_FILE, Judged)}


def _flag(entry: Entry, verdict: Any) -> bool:
    if not isinstance(verdict, dict) or not isinstance(flag := verdict.get("flagged"), bool):
        raise DamagedEntry(f"{entry.path / HARMFUL_FILE}: has answers without a verdict")
    return flag


def _member_flags(entries: Iterable[Entry], *members: str) -> list[list[bool]]:
    """What members of an ensemble said of the answers of all cells together; a damaged cell is told elsewhere."""
    flags: list[list[bool]] = []
    for entry in entries:
        with suppress(DamagedEntry):
            rows = read_rows(entry.path / HARMFUL_FILE, Judged)
            flags += [[_flag(entry, row.get("details", {}).get(name)) for name in members] for row in rows]
    return flags


def _endpoint_notes(part: str, summaries: Iterable[dict[str, float]]) -> list[str]:
    total: Counter[str] = Counter()
    for summary in summaries:
        total.update({name: value for name, value in summary.items() if isinstance(value, int | float)})
    notes = []
    if tokens := total["prompt_tokens"] + total["completion_tokens"]:
        cost = f", cost {total['cost']:.2f}" if total["cost"] else ""
        notes.append(f"The {part} read and wrote {tokens:,} tokens{cost}.")
    if total["unread"]:
        unread = f"{total['unread']} replies of the {part} held no verdict"
        notes.append(f"{unread}; its settings say what that counts as (Llama Guard's count as safe).")
    if total["unseen"]:
        notes.append(f"The {part} read nothing of {total['unseen']} answers, empty or cut off: the question decided.")
    if total["ungraded"]:
        notes.append(f"{total['ungraded']} answers without a grade are left out of FA.")
    return notes
