"""From stored answers to a cell's two scores: verdicts on malicious prompts, credits for the task."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from asft.cells.cell import Cell
from asft.data.rows import Row
from asft.data.templates import user_text
from asft.judges.base import judge_kept
from asft.metrics.accuracy import accuracy, score_task
from asft.store.entries import HARMFUL_FILE, TASK_FILE, read_jsonl, write_jsonl
from asft.store.partial import PartialRows


def answered(row: Row, query: Row, answer: str) -> dict[str, str]:
    """An answer as it is stored, with what was asked, and beside it how a jailbreak put it where one did."""
    prompt, put = user_text(row), user_text(query)
    disguised = {} if put == prompt else {"asked": put}
    return {"id": row.id, "prompt": prompt, **disguised, "gold": row.output, "answer": answer}


def judge_answers(cell: Cell, answers: Path, folder: Path, kept: PartialRows) -> dict[str, Any]:
    """Judges what was answered and writes both files of answers again to ``folder``, with their verdicts.

    Args:
        answers: folder of the generate stage.
        kept: verdicts of an interrupted run; each new one is added.

    Returns:
        ``metrics`` (HS and FA in percent, with their counts), and what the judge and the grader have to tell.
    """
    harmful, task = (list(read_jsonl(answers / name)) for name in (HARMFUL_FILE, TASK_FILE))
    verdicts = judge_kept(cell.judge, [row["prompt"] for row in harmful], [row["answer"] for row in harmful], kept)
    scored, grading = _credited(cell, task)
    credits = [row["credit"] for row in scored if row["credit"] is not None]
    pairs = zip(harmful, verdicts, strict=True)
    write_jsonl(folder / HARMFUL_FILE, ({**row, **asdict(verdict)} for row, verdict in pairs))
    write_jsonl(folder / TASK_FILE, scored)
    flagged = sum(verdict.flagged for verdict in verdicts)
    metrics = {
        "hs": 100 * flagged / len(verdicts),
        "fa": accuracy(credits),
        "hs_flagged": flagged,
        "hs_total": len(verdicts),
        "fa_total": len(credits),
    }
    return {"metrics": metrics, "judge": cell.judge.summary(verdicts), **grading}


def _credited(cell: Cell, task: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The task's answers with their credit in [0, 1], by the task's rule or by the grader (None: no grade)."""
    answers = [row["answer"] for row in task]
    if cell.graded:
        grades = cell.grader.grade([row["prompt"] for row in task], answers)
        graded = [
            {
                **row,
                "credit": None if grade.value is None else grade.value / 10,
                "reason": grade.reason,
                **grade.details,
            }
            for row, grade in zip(task, grades, strict=True)
        ]
        return graded, {"grader": cell.grader.summary(grades)}
    gold = [Row(id=row["id"], instruction=row["prompt"], output=row["gold"]) for row in task]
    credits = score_task(cell.dataset.name, gold, answers)
    return [{**row, "credit": credit} for row, credit in zip(task, credits, strict=True)], {}
