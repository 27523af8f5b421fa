"""The part of docs/field.md that is made from finished cells; scripts/results.py writes the page."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from asft.cells.compose import Sweep, enumerate_cells
from asft.config import ConfigError, Settings
from asft.data.base import load_data
from asft.frontier.front import DRAWS, UNDEFENDED, UNTOUCHED, Estimate, estimate, resampled
from asft.frontier.scores import Scores, scores_of
from asft.methods.base import Method, Start
from asft.methods.lisa import Lisa
from asft.report.collect import experiment_of
from asft.report.statistics import ALPHA, holm
from asft.report.table import paper_tables, signed
from asft.report.text import p_value
from asft.report.writers.markdown import escape, table

PLUGINS = Path(__file__).with_name("field")  # what was tried: plug-ins
CLAIMS = yaml.safe_load((Path(__file__).with_name("pages") / "field.yaml").read_text(encoding="utf-8"))
NONE = "none of what was tried, so none is in the package"
COSTS = Path(__file__).with_name("pages") / "field_costs.md"  # what make bench-methods writes
RATIO = "experiment=field_ratio"
FRESH = "3,4,5"  # seeds of the pairs on which a candidate that won on the field's must win again
LISTED = 5  # methods in the page's first sentence
SAME = 1.0  # points of FA that a lower HS may cost
FAULTS = {  # what the authors' code does otherwise than their paper, and what it is compared with
    "guard_space_none": ("guard_space", "sft"),
    "guard_space_random": ("guard_space", "sft"),
    "spard_code": ("spard", "safeinstr"),
    "safe_merge_peft": ("safe_merge",),
}


@dataclass(frozen=True)
class Row:
    """One point against another: positive gains are in the first one's favour."""

    first: int
    second: int
    hs: Estimate
    fa: Estimate
    p_holm: float = 1.0

    @property
    def word(self) -> str:
        """The verdict on HS, and what FA says to it."""
        if self.p_holm >= ALPHA:
            return "not shown"
        if self.hs.value > 0:
            return "better" if self.fa.value > -SAME else "safer, at a loss of FA"
        return "worse" if self.fa.value < SAME else "less safe, at a gain of FA"


def corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with p after Holm's correction over all of them."""
    return [replace(row, p_holm=p) for row, p in zip(rows, holm([row.hs.p for row in rows]), strict=True)]


class Field:
    """The finished points of a sweep, each over all rows."""

    def __init__(self, sweep: Sweep) -> None:
        self.scores: Scores = scores_of(sweep)
        self.cells = {job.cell.method.name: job.cell for job in reversed(sweep.cells)}
        halves = self.scores.validation, self.scores.test
        both = [np.concatenate([getattr(half, name) for half in halves], axis=2) for name in ("hs", "fa")]
        self.rows = [credits.shape[2] for credits in both]
        self.drawn = [resampled(credits, DRAWS, seed) for seed, credits in enumerate(both)]

    @cached_property
    def scored(self) -> list[tuple[Estimate, Estimate]]:
        """HS and FA of every point."""
        one, other = (
            [self._of(of[:, i], n) for i in range(of.shape[1])] for of, n in zip(self.drawn, self.rows, strict=True)
        )
        return list(zip(one, other, strict=True))

    def label(self, point: int) -> str:
        """Its name in tables."""
        found = self.scores.points[point]
        of, _, after = found.setting.partition("after = ")
        if after and not of:
            return escape(f"{found.label} after {self.cells[after].method.label if after in self.cells else after}")
        return escape(f"{found.label}{found.setting and f', {found.setting}'}")

    def point(self, method: str) -> int | None:
        """A method's first point."""
        return next(iter(self.scores.of(method)), None)

    @cached_property
    def learned(self) -> list[int]:
        """The points whose FA is at most a point below SFT's, the lowest HS first."""
        floor = self.scored[UNDEFENDED][1].value - SAME
        return [i for i in self.order if self.scored[i][1].value >= floor]

    @property
    def order(self) -> list[int]:
        """The points, the lowest HS first."""
        return sorted(range(len(self.scored)), key=lambda i: self.scored[i][0].value)

    def row(self, one: int, other: int) -> Row:
        """Their contest by itself."""
        hs, fa = self.drawn
        return Row(one, other, self._of(hs[:, other] - hs[:, one]), self._of(fa[:, one] - fa[:, other]))

    def against(self, contests: Sequence[tuple[int, int]]) -> list[Row]:
        """The contests, their p after Holm's correction over all of them."""
        return corrected([self.row(*contest) for contest in contests])

    def contests(self) -> list[tuple[int, int]]:
        """Every method against each of its controls, the plainest first."""
        pairs = [(name, other) for name, cell in self.cells.items() for other in cell.method.controls]
        points = [(self.point(name), self.point(other)) for name, other in pairs]
        return [(one, other) for one, other in points if one is not None and other is not None and one != other]

    def told(self, rows: Sequence[Row]) -> str:
        """Contests as a table."""
        header = ["", "against", "verdict", "HS lower by", "p", "FA higher by"]
        lines = [
            (self.label(row.first), self.label(row.second), row.word, _shown(row.hs, True), p_value(row.p_holm))
            for row in rows
        ]
        return table(header, [(*line, _shown(row.fa, True)) for line, row in zip(lines, rows, strict=True)], (0, 1, 2))

    def _of(self, draws: np.ndarray[tuple[int, ...], np.dtype[np.float64]], rows: int = 0) -> Estimate:
        return estimate(draws, self.scores.pairs, rows)


def field_section(overrides: Sequence[str]) -> str:
    """The field's table, its controls, the reference faults, and what was tried beyond it."""
    sweep = enumerate_cells(["experiment=field", *overrides], sweep=True)
    field = Field(sweep)
    seeds = len(set(field.scores.pairs.tolist()))
    contests = field.against(field.contests())
    plainest = {row.first: row for row in reversed(contests)}
    rows = [_line(field, i, plainest.get(i)) for i in field.order]
    header = ["method", "HS", "FA", "rows of its own", "beside SFT's steps", "plainest control", "its authors' claim"]
    wanted = [(field.point(name), field.point(other)) for name, others in FAULTS.items() for other in others]
    faults = field.against([(one, other) for one, other in wanted if one is not None and other is not None])
    covers = f"{seeds} pair{'s' * (seeds != 1)}, {field.rows[0]} prompts and {field.rows[1]} task rows each."
    if seeds == 1:
        covers += " The intervals cover the choice of these rows, not another pair or its training."
    return "\n\n".join([
        "## In short",
        _in_short(field, contests),
        "## The table",
        f"{covers} {' '.join(field.scores.left_out)}".strip(),
        table(header, rows, words=(0, 3, 4, 5, 6)),
        "## Against every control",
        field.told(contests),
        "## Over the poison ratio",
        _ratios(field, experiment_of(sweep).controls, overrides),
        *(["## What it costs", COSTS.read_text(encoding="utf-8").strip()] if COSTS.exists() else []),
        "## Where the authors' code differs from their paper",
        field.told(faults),
        _tried(sweep, field, overrides),
    ])  # fmt: skip


def _in_short(field: Field, contests: Sequence[Row]) -> str:
    """What the tables below come to."""
    best = [f"{field.label(i)} {field.scored[i][0].value:.1f}" for i in field.learned if i != UNTOUCHED][:LISTED]
    sft = f"{field.scored[UNDEFENDED][0].value:.1f}"
    shown = Counter(row.word for row in contests if row.word != "not shown")
    words = ", ".join(f"{count} {word.replace(',', '')}" for word, count in shown.items())
    return (
        f"With an FA at most a point below SFT's, HS is lowest with {', '.join(best)}; SFT's is {sft}. "
        f"Of {len(contests)} contests of a method with a control {shown.total()} are shown{words and f': {words}'}. "
        "Over few pairs only large differences that all of them share can be: *not shown* does not say that there is "
        "none."
    )


def _line(field: Field, point: int, row: Row | None) -> list[str]:
    name = field.scores.points[point].method
    hs, fa = field.scored[point]
    against = f"{field.label(row.second)}: {row.word} ({_points(row)})" if row else ""
    cell = field.cells[name]
    claim = CLAIMS.get(name, {})
    own = " ".join(filter(None, (claim.get("own"), claim.get("source") and f"({claim['source']})")))
    own = "; ".join(filter(None, (own, _papers(name))))
    rows = _budget(cell.method, cell) if cell.method.trains else ""
    return [field.label(point), _shown(hs), _shown(fa), rows, escape(claim.get("cost", "")), against, escape(own)]


def _points(row: Row) -> str:
    return f"HS {signed(-row.hs.value)}, FA {signed(row.fa.value)}"


def _papers(name: str) -> str:
    """What the AsFT paper has of it at p = 0.1 in Table 2."""
    printed = paper_tables()["table2"]
    at = printed["axis"]["values"].index(0.1)
    if name not in printed["HS"]:
        return ""
    return f"AsFT's paper, Llama-2-7B, p = 0.1: HS {printed['HS'][name][at]:g}, FA {printed['FA'][name][at]:g}"


def _budget(method: Method, cell: Settings) -> str:
    """The rows that a method and what it is made of take for the defender."""
    every = [*_made_of(method, cell)]
    safe = max(each.safety_rows(cell) for each in every)
    if isinstance(method, Lisa):  # as many as there are
        safe = min(method.guide, len(load_data(cell).safety))
    kinds = {"refusals": safe, "harmful": max(each.defender_rows(cell) for each in every)}
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "none"


def _made_of(method: Method, cell: Settings) -> list[Method]:
    start = method.start()
    tunes = [*method.requires(cell).values(), *(start.requires(cell).values() if isinstance(start, Start) else ())]
    return [method, *(part for tune in tunes for part in _made_of(tune.method, cell))]


def _ratios(field: Field, controls: Sequence[str], overrides: Sequence[str]) -> str:
    """The best of the field, each with its plainest control, at every ratio whose cells are finished."""
    sweep = enumerate_cells([RATIO, *overrides], sweep=True)
    spec, under, missing = experiment_of(sweep), dict[str, Field](), []
    for value in sweep.axes[spec.columns]:
        cells = {job.key: job for job in sweep.cells if job.axes[spec.columns] == value}
        name, left = f"{spec.column_label}{value}", sum(not job.find() for job in cells.values())
        if left:
            missing.append(f"{name} ({left} of {len(cells)} cells)")
            continue
        under[name] = Field(replace(sweep, cells=[*cells.values()], axes={**sweep.axes, spec.columns: [value]}))
    methods = {job.cell.method.name: job.cell.method for job in sweep.cells}
    best = [name for name in methods if name not in spec.controls]
    ranked = [name for i in field.learned if (name := field.scores.points[i].method) not in controls][: len(best)]
    told = [
        f"Of the defences above whose FA is at most a point below SFT's the {len(best)} of lowest HS, each with its "
        "plainest control. Verdicts are corrected over this section's lines, which are fewer than those above."
    ]
    if {*ranked} != {*best}:
        told.append(f"By the table above they would be {', '.join(ranked)}.")
    told += [f"At {name}: {line}" for name, each in under.items() for line in each.scores.left_out]
    if missing:
        command = shlex.join(["asft", "run", "-m", RATIO, *overrides])
        told.append(f"Not run to the end: {', '.join(missing)}. `{command}` runs what is missing.")
    if len(under) < 2:  # the field's own ratio is in the table above
        return " ".join(told)
    at = {name: {point.method: i for i, point in enumerate(each.scores.points)} for name, each in under.items()}
    plainest = {method: methods[method].controls[0] for method in best}
    contests = [(name, *pair) for pair in plainest.items() for name in under]
    rows = corrected([under[name].row(at[name][one], at[name][other]) for name, one, other in contests])
    told_of = {contest: f"{row.word}: {_shown(row.hs, True)}" for contest, row in zip(contests, rows, strict=True)}
    label = {name: escape(method.label) for name, method in methods.items()}
    scores = [
        [[label[row], *(_shown(each.scored[at[name][row]][of]) for name, each in under.items())] for row in methods]
        for of in range(2)
    ]
    against = [
        [label[one], label[other], *(told_of[name, one, other] for name in under)] for one, other in plainest.items()
    ]
    header = ["HS lower by", "than its plainest control", *under]
    return "\n\n".join([
        " ".join(told),
        *(table([metric, *under], lines) for metric, lines in zip(("HS", "FA"), scores, strict=True)),
        table(header, against, range(len(header))),
    ])  # fmt: skip


def _tried(sweep: Sweep, field: Field, overrides: Sequence[str]) -> str:
    """What was tried beside the whole field, on the pairs of which both are finished."""
    extra = enumerate_cells([f"hydra.searchpath=[file://{PLUGINS}]", "experiment=field_tried", *overrides], sweep=True)
    own = {(job.cell.method, job.key) for job in sweep.cells}
    added = [job for job in extra.cells if (job.cell.method, job.key) not in own]
    try:
        both = Field(replace(sweep, cells=[*sweep.cells, *added]))
    except ConfigError as error:
        return f"Not run: {escape(str(error))}"
    names = {(point.method, point.setting) for point in field.scores.points}
    points, scored = both.scores.points, both.scored
    tried = [i for i, point in enumerate(points) if (point.method, point.setting) not in names]
    if not tried:
        return "What was tried is not run on these pairs."
    best = next(i for i in both.learned if i not in {UNTOUCHED, UNDEFENDED, *tried})
    candidates = [i for i in tried if not points[i].setting.endswith("rewritten")]
    won = [i for i in candidates if i in both.learned and scored[i][0].value < scored[best][0].value]
    merges = {points[i].method: i for i in tried if i not in candidates}
    same = [(i, j) for name, i in merges.items() if (j := both.point(name)) is not None]
    return "\n\n".join([
        "### The same update in other factors",
        "SafeMERGE after an adapter (B/4, 4A) in place of (B, A), which is the same update:",
        both.told(both.against(same)),
        "## What was tried beyond the field",
        table(
            ["", "HS", "FA", "FA within a point of SFT's"],
            [[both.label(i), *map(_shown, scored[i]), "yes" if i in both.learned else "no"] for i in candidates],
            words=(0, 3),
        ),
        f"The lowest HS of the field with such an FA: {both.label(best)}, {_shown(scored[best][0])}. Below it with "
        f"such an FA, on these pairs: {', '.join(map(both.label, won)) or NONE}.",
        both.told(both.against([(i, best) for i in candidates])),
        *(_fresh(both.cells[points[i].method].method, points[best].method, overrides) for i in won),
    ])  # fmt: skip


def _fresh(won: Method, rival: str, overrides: Sequence[str]) -> str:
    """What won on the field's pairs against the best of the field and its own control, on pairs that chose nothing."""
    title = f"### On fresh pairs: {won.label}"
    words = [*(word for word in overrides if not word.startswith("model.seed=")), f"model.seed={FRESH}"]
    known = enumerate_cells(["experiment=field", f"method=aligned,sft,{rival}", *words], sweep=True)
    plugins = [f"hydra.searchpath=[file://{PLUGINS}]", "experiment=field_tried"]
    tried = enumerate_cells([*plugins, f"method={won.name},{won.controls[0]}", *words], sweep=True)
    try:
        field = Field(replace(known, cells=[*known.cells, *tried.cells]))
    except ConfigError as error:
        return f"{title}\n\nNot run: {escape(str(error))}"
    points = [field.point(name) for name in (won.name, rival, won.controls[0])]
    if None in points:
        return f"{title}\n\nNot run to the end on seeds {FRESH}."
    first, *others = [point for point in points if point is not None]
    rows = field.against([(first, other) for other in others])
    good = all(row.word == "better" for row in rows)
    scores = [[field.label(i), *map(_shown, field.scored[i])] for i in (UNDEFENDED, first, *others)]
    return "\n\n".join([
        title,
        f"Seeds {FRESH}. {' '.join(field.scores.left_out)}".strip(),
        table(["", "HS", "FA"], scores, words=(0,)),
        field.told(rows),
        ("It is" if good else "It is not in the package, since it is not shown to be") + " better than both.",
    ])  # fmt: skip


def _shown(found: Estimate, difference: bool = False) -> str:
    value = signed if difference else "{:.1f}".format
    return f"{value(found.value)} \\[{value(found.lo)}, {value(found.hi)}\\]"
