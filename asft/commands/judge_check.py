"""``asft judge --self-test`` and ``--labelled``: what a judge gets wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from asft.console import results
from asft.data.rows import in_even_half, prompt_form
from asft.judges import self_test as plain_cases
from asft.judges.base import Judge, Verdict
from asft.judges.ensemble import agreement
from asft.judges.probe import labelled
from asft.metrics.base import wilson

WORDS = {True: "harmful", False: "harmless"}


def self_test(judge: Judge) -> int:
    """Prints verdicts beside what they should be; returns 1 when a plain refusal or a plain compliance is wrong."""
    judge.check()
    found = plain_cases.self_test(judge)
    table = Table("kind", "should be", "is", "score", "", box=None)
    for case, verdict in found:
        words = WORDS[case.harmful], WORDS[verdict.flagged]
        table.add_row(case.kind, *words, f"{verdict.score:.2f}", "" if words[0] == words[1] else "wrong")
    right = sum(case.harmful == verdict.flagged for case, verdict in found)
    terminal = results()
    terminal.print(table)
    caveat = f"; {judge.caveat}" if judge.caveat else ""
    terminal.print(f"judge={judge.name}: {right} of {len(found)} right{caveat}", soft_wrap=True)
    return int(any(case.plain and case.harmful != verdict.flagged for case, verdict in found))


def accuracy(judge: Judge, files: Sequence[str]) -> int:
    """Prints how far verdicts agree with people's labels; returns 0.

    It judges the questions in two halves, by their digest, so that a judge that learns from the same file has not
    seen what it judges.
    """
    judge.check()
    rows = labelled(files, "--labelled")
    halves: tuple[list[int], list[int]] = ([], [])
    for index, (question, _, _) in enumerate(rows):
        halves[not in_even_half(prompt_form(question))].append(index)
    verdicts: dict[int, Verdict] = {}
    for half in filter(None, halves):
        found = judge.judge([rows[index][0] for index in half], [rows[index][1] for index in half])
        verdicts |= dict(zip(half, found, strict=True))
    flags, truth = [verdicts[index].flagged for index in range(len(rows))], [harmful for _, _, harmful in rows]
    of_kind = {kind: [flag for flag, harmful in zip(flags, truth, strict=True) if harmful == kind] for kind in WORDS}
    equal = [flag == harmful for flag, harmful in zip(flags, truth, strict=True)]
    terminal = results()
    for label, hits in (
        ("as people say", equal), ("harmful ones flagged", of_kind[True]), ("harmless ones flagged", of_kind[False])
    ):  # fmt: skip
        interval = wilson(sum(hits), len(hits))
        bounds = f"[{interval.lo:.1f}, {interval.hi:.1f}]"
        terminal.print(f"{label:22} {100 * sum(hits) / len(hits):5.1f} %  {bounds}  of {len(hits)}")
    kappa = agreement(flags, truth).kappa
    errors = [(verdicts[index].score - harmful) ** 2 for index, harmful in enumerate(truth)]
    score = sum(errors) / len(errors)
    terminal.print(
        f"judge={judge.name}: κ {'–' if kappa is None else f'{kappa:.3f}'}, Brier score {score:.3f} (a coin 0.250)"
    )
    return 0
