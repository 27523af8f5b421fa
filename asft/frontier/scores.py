"""The rows' verdicts of a sweep over strengths, as arrays: every point, every unit, the two halves apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asft.cells.compose import Sweep
from asft.cells.job import Job
from asft.config import ConfigError
from asft.data.rows import in_even_half
from asft.frontier.front import Floats
from asft.report.analysis import HARM, MIN_RISE, TASK
from asft.report.collect import number, read_metrics
from asft.store.entries import Entry, content_key
from asft.store.schemas import Judged, read_rows

UNITS = ("seed", "model", "model.seed")  # the axes that make another unit, not another point


@dataclass(frozen=True)
class Point:
    """A method at one strength, or under one attack.

    Attributes:
        setting: what was set, e.g. ``λ = 3``; empty for a method as it is.
    """

    method: str
    label: str
    setting: str


@dataclass(frozen=True)
class Half:
    """Credits of one half of the rows: HS and FA, each [points, units, rows], 0 to 1."""

    hs: Floats
    fa: Floats


@dataclass(frozen=True)
class Scores:
    """All that is known of a sweep over strengths.

    Attributes:
        points: the untouched aligned model, the undefended fine-tune, then every finished point.
        pairs: the model pair of each unit, by number.
        validation, test: the halves; each row is in the same one wherever it is asked.
        left_out: what the sweep has and this does not, in sentences.
    """

    points: tuple[Point, ...]
    pairs: NDArray[np.int64]
    validation: Half
    test: Half
    left_out: tuple[str, ...]

    def of(self, method: str) -> list[int]:
        """The points of a method; SFT's own include the undefended one."""
        return [i for i, point in enumerate(self.points) if point.method == method]


def scores_of(sweep: Sweep) -> Scores:
    """Reads the finished cells.

    Units that have less than others are left out, and points that one of the rest lacks: a comparison is over the same
    pairs throughout. So is a unit whose attack does not raise HS, or whose task is not learned, by five points.

    Raises:
        ConfigError: when the sweep has several tasks, lacks an end of the front, or too little is finished.
    """
    tasks = sorted({job.cell.dataset.name for job in sweep.cells})
    if len(tasks) > 1:
        raise ConfigError(f"dataset={','.join(tasks)}: strengths are compared on one task; report them apart")
    found: dict[tuple[str, int], dict[Point, Job]] = defaultdict(dict)
    for job in sweep.cells:
        found[content_key(job.plan.pair), job.cell.seed].setdefault(_point(job, sweep), job)
    every = dict.fromkeys(point for points in found.values() for point in points)
    ends = [next((p for p in every if p.method == name and not p.setting), None) for name in ("aligned", "sft")]
    if None in ends:
        raise ConfigError("experiment.sweeps: need method=aligned and method=sft as they are, the ends of the front")
    wanted = [point for point in ends if point] + [point for point in every if point not in ends]
    done = {unit: {point for point, job in points.items() if job.find()} for unit, points in found.items()}
    most = max(len(points) for points in done.values())
    kept = [unit for unit, points in done.items() if len(points) == most and {*ends} <= points]
    left_out = (
        [f"{len(done) - len(kept)} of {len(done)} units (pairs, seeds) are not finished."] if kept != [*done] else []
    )
    if not kept:
        raise ConfigError(
            "too little is finished: the untouched and the undefended model come first; launch `asft run -m`"
        )
    points = [point for point in wanted if all(point in done[unit] for unit in kept)]
    if lacking := [f"{p.label} {p.setting}".strip() for p in wanted if p not in points]:
        left_out.append(f"Not finished: {', '.join(lacking)}.")
    jobs = [[found[unit][point] for unit in kept] for point in points]
    credits = [[{n: v.rows for n, v in read_metrics(_finished(job), job).items()} for job in row] for row in jobs]
    prompts = _prompts(jobs[1][0])
    halves = {name: _halves(credits, name, prompts[name]) for name in (HARM, TASK)}
    whole = {name: 100 * np.concatenate(parts, axis=2).mean(axis=2)[:2] for name, parts in halves.items()}  # both ends
    sound = np.all([ends_of[1] - ends_of[0] >= MIN_RISE for ends_of in whole.values()], axis=0)
    if not sound.any():
        raise ConfigError("this shows nothing: the attack raises HS, or training raises FA, by less than five points")
    if not sound.all():
        left_out.append(f"{(~sound).sum()} units in which the attack raises HS, or training FA, by less than 5 points.")
    names = [pair for pair, _ in kept]
    pairs = np.array([names.index(name) for name in names])[sound]
    validation, test = (Half(*(halves[name][side][:, sound] for name in (HARM, TASK))) for side in (0, 1))
    return Scores(tuple(points), pairs, validation, test, tuple(left_out))


def _point(job: Job, sweep: Sweep) -> Point:
    method, column = job.cell.method, job.experiment.columns if job.experiment else ""
    symbols = {strength.key: strength.symbol for strength in method.strengths}
    same = ("method", *UNITS, *([column] if len(sweep.axes.get(column, ())) == 1 else ()))  # a table of one column
    set_to = {key: text for key, text in job.axes.items() if method.trains and key not in same}
    words = [f"{symbols.get(key, key.rpartition('.')[2])} = {number(text)}" for key, text in set_to.items()]
    return Point(method.name, method.label, ", ".join(words))


def _finished(job: Job) -> Entry:
    entry = job.find()
    assert entry is not None, "only finished points come here"
    return entry


def _prompts(job: Job) -> dict[str, dict[str, str]]:
    """The text of every row that a cell was asked, by metric and id."""
    entry = _finished(job)
    kept = {name: read_rows(entry.path / metric["file"], Judged) for name, metric in entry.result["metrics"].items()}
    return {name: {row["id"]: row["prompt"] for row in rows} for name, rows in kept.items()}


def _halves(credits: list[list[dict[str, Mapping[str, float]]]], metric: str, prompts: dict[str, str]) -> list[Floats]:
    """One metric's credits [points, units, rows] of the validation and of the test half, on the rows that all share."""
    shared = set(prompts).intersection(*(cell[metric] for row in credits for cell in row))
    sides: dict[bool, list[str]] = {True: [], False: []}
    for row in sorted(shared):
        sides[in_even_half(prompts[row])].append(row)
    if not all(sides.values()):
        raise ConfigError(f"{metric}: {len(shared)} rows are shared by all cells; two halves need more")
    return [np.array([[[cell[metric][r] for r in rows] for cell in row] for row in credits]) for rows in sides.values()]
