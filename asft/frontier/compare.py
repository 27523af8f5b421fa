"""Every method against its plainest controls: chosen strengths, fronts, and which differences hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from asft.cells.compose import Sweep
from asft.config import Wishes
from asft.frontier.front import (
    DRAWS,
    UNDEFENDED,
    UNTOUCHED,
    Estimate,
    Floats,
    Wish,
    at_accuracy,
    corners,
    estimate,
    lower_corner,
    resampled,
    volume,
)
from asft.frontier.scores import Half, Scores, scores_of
from asft.report.collect import experiment_of, made_in
from asft.report.statistics import ALPHA, holm
from asft.report.text import made_with
from asft.text import without_home


@dataclass(frozen=True)
class PointRow:
    """One point's scores on all rows; ``corner``: whether it is one of its method's front."""

    method: str
    label: str
    setting: str
    hs: Estimate
    fa: Estimate
    corner: bool


@dataclass(frozen=True)
class Choice:
    """What a wish comes to with one method.

    Attributes:
        setting: the strength chosen on validation, the commonest where pairs differ.
        hs, fa: on the test half.
        told: the HS and FA that would have been told, had the strength been chosen on the test half itself; None where
            that is the same strength.
        best: whether validation puts this method first, and it grants the wish there in every pair.
    """

    wish: str
    method: str
    label: str
    setting: str
    hs: Estimate
    fa: Estimate
    told: tuple[Estimate, Estimate] | None
    best: bool = False


@dataclass(frozen=True)
class MethodRow:
    """A method's front in one number, and HS on it at an FA of SFT's less so many points."""

    method: str
    label: str
    volume: Estimate
    at: dict[float, Estimate]


@dataclass(frozen=True)
class Verdict:
    """A method against one of its controls; positive is in the method's favour.

    Attributes:
        gain: in hypervolume; of attacks, by how much HS under the strongest one is lower than with the control.
        at: how much lower HS is at equal FA.
        p_holm: of the gain, after Holm's correction over all verdicts.
        holds: the losses at which HS differs, after the same correction over all of them.
    """

    method: str
    label: str
    control: str
    control_label: str
    gain: Estimate
    at: dict[float, Estimate]
    p_holm: float = 1.0
    holds: tuple[float, ...] = ()

    @property
    def word(self) -> str:
        """``better``, ``worse`` or ``not shown``."""
        return "not shown" if self.p_holm >= ALPHA else "better" if self.gain.value > 0 else "worse"


@dataclass(frozen=True)
class Frontier:
    """A sweep over strengths, compared.

    Attributes:
        made: the libraries and devices of its cells.
        rows, told_by: how many prompts and task rows there are, and in the test half.
        flattered: by how many points of HS and of FA a choice looks better on the half that it was made on than on the
            other one, mean over methods, wishes and both ways round.
    """

    name: str
    title: str
    command: str
    made: str
    pairs: int
    units: int
    rows: tuple[int, int]
    told_by: tuple[int, int]
    points: tuple[PointRow, ...]
    choices: tuple[Choice, ...]
    flattered: tuple[Estimate, Estimate]
    methods: tuple[MethodRow, ...]
    verdicts: tuple[Verdict, ...]
    left_out: tuple[str, ...]


def frontier_of(sweep: Sweep, command: str) -> Frontier:
    """The comparison that a command line names, as far as its cells are finished.

    Raises:
        ConfigError: as :func:`asft.frontier.scores.scores_of`.
    """
    experiment = experiment_of(sweep)
    controls = {job.cell.method.name: job.cell.method.controls for job in sweep.cells}
    found = compare(scores_of(sweep), experiment.wishes or Wishes(), controls)
    made = made_with(made_in(sweep))
    return replace(found, name=experiment.name, title=experiment.title, command=without_home(command), made=made)


def compare(scores: Scores, wishes: Wishes, controls: Mapping[str, tuple[str, ...]], draws: int = DRAWS) -> Frontier:
    """All choices, fronts and verdicts.

    A wish is granted as a user would have it: chosen on the validation half, told by the test half. Corners of a front
    are chosen on one half and scored on the other, both ways round, so that every row counts.
    """
    seen, fresh = _Half(scores.validation, draws, 0), _Half(scores.test, draws, 2)
    pairs, both = scores.pairs, (seen.rows[0] + fresh.rows[0], seen.rows[1] + fresh.rows[1])
    methods = {point.method: point.label for point in scores.points[UNDEFENDED:]}
    own = {name: [UNTOUCHED, UNDEFENDED, *scores.of(name)] for name in methods}
    whole = tuple(
        (one * of + other * (total - of)) / total
        for one, other, of, total in zip(seen.drawn, fresh.drawn, seen.rows, both, strict=True)
    )
    defending = bool(wishes.fa_losses or wishes.hs_limits)
    mean = [values[0].mean(axis=1) for values in whole]
    fronts = {name: _Front(seen, fresh, own[name], wishes.fa_losses) for name in methods} if defending else {}
    on_front = {point for name in fronts for point in corners(mean[0], mean[1], own[name])}
    found = [
        Verdict(name, methods[name], other, methods[other], estimate(front.volume - fronts[other].volume, pairs), {
            loss: estimate(fronts[other].at[loss] - hs, pairs, both[0], less=True) for loss, hs in front.at.items()
        })
        for name, front in fronts.items()
        for other in controls.get(name, ())
        if other in fronts
    ]  # fmt: skip
    choices: list[Choice] = []
    flattered: list[tuple[Floats, Floats]] = []
    for wish in all_wishes(wishes):
        attack = wish.kind == "attack"
        picked = {name: _Pick(wish, seen, fresh, scores.of(name) if attack else own[name]) for name in methods}
        first = min(picked, key=lambda name: picked[name].rank)
        for name, pick in picked.items():
            (hs, fa), told = (fresh.told(of, pairs) for of in (pick.chosen, pick.again))
            setting, best = _commonest(scores, pick.chosen), name == first and not attack and not any(pick.missed)
            if none := sum(map(bool, pick.missed)):
                setting += f"; none {'keeps so much' if attack else 'grants it'} in {none} of {len(pick.missed)}"
            other = None if pick.again == pick.chosen else told
            choices.append(Choice(wish.words, name, methods[name], setting, hs, fa, other, best))
            flattered.append(pick.flattered)
            if not attack or any(pick.missed):  # no attack on it that the wish allows: nothing to compare
                continue
            for other_name in controls.get(name, ()):
                if other_name in picked and not any(picked[other_name].missed):
                    less = fresh.at(picked[other_name].chosen)[0] - fresh.at(pick.chosen)[0]
                    label = methods[other_name]
                    gain = estimate(less, pairs, fresh.rows[0], less=True)
                    found.append(Verdict(name, methods[name], other_name, label, gain, {}))
    by_hs, by_fa = (estimate(np.mean(of, axis=0), pairs) for of in zip(*flattered, strict=True))
    estimated = [[estimate(of[:, i], pairs, n) for i in range(of.shape[1])] for of, n in zip(whole, both, strict=True)]
    corrected = holm([item.gain.p for item in found])
    at_equal = iter(holm([hs.p for item in found for hs in item.at.values()]))
    return Frontier(
        *("", "", "", "", len(set(pairs.tolist())), len(pairs), both, fresh.rows),
        points=tuple(
            PointRow(point.method, point.label, point.setting, hs, fa, i in on_front)
            for i, (point, hs, fa) in enumerate(zip(scores.points, *estimated, strict=True))
        ),
        choices=tuple(choices),
        flattered=(by_hs, by_fa),
        methods=tuple(
            MethodRow(name, methods[name], estimate(front.volume, pairs, least=0.0), {
                loss: estimate(hs, pairs, both[0]) for loss, hs in front.at.items()
            })
            for name, front in fronts.items()
        ),
        verdicts=tuple(
            replace(item, p_holm=p, holds=tuple(loss for loss in item.at if next(at_equal) < ALPHA))
            for item, p in zip(found, corrected, strict=True)
        ),
        left_out=scores.left_out,
    )  # fmt: skip


class _Half:
    """One half's HS and FA, each [draws, points, units]."""

    def __init__(self, half: Half, draws: int, seed: int) -> None:
        self.rows = half.hs.shape[2], half.fa.shape[2]
        self.drawn = resampled(half.hs, draws, seed), resampled(half.fa, draws, seed + 1)

    def at(self, chosen: Sequence[int]) -> tuple[Floats, Floats]:
        """HS and FA of the point chosen in each unit, each [draws, units]."""
        hs, fa = (of[:, chosen, range(len(chosen))] for of in self.drawn)
        return hs, fa

    def told(self, chosen: Sequence[int], pairs: NDArray[np.int64]) -> tuple[Estimate, Estimate]:
        """The same with their intervals."""
        hs, fa = (estimate(of, pairs, n) for of, n in zip(self.at(chosen), self.rows, strict=True))
        return hs, fa


class _Front:
    """One method's hypervolume, and HS at each loss of FA, [draws, units]."""

    def __init__(self, one: _Half, other: _Half, candidates: Sequence[int], losses: Sequence[float]) -> None:
        units = range(one.drawn[0].shape[2])
        volumes: list[Floats] = []
        at: dict[float, list[Floats]] = {loss: [] for loss in losses}
        for chosen, told in ((one, other), (other, one)):
            (hs, fa), rows = chosen.drawn, told.drawn
            paths = [corners(hs[0, :, u], fa[0, :, u], candidates) for u in units]
            drawn = [[of[:, path, u] for of in rows] for u, path in zip(units, paths, strict=True)]
            volumes.append(np.stack([volume(hs, fa) for hs, fa in drawn], axis=1))
            for loss, found in at.items():
                lower = [lower_corner(hs[0, p, u], fa[0, p, u], fa[0, p[-1], u] - loss) for u, p in enumerate(paths)]
                one_by_one = zip(drawn, lower, strict=True)
                found.append(np.stack([at_accuracy(x, y, y[:, -1] - loss, i) for (x, y), i in one_by_one], axis=1))
        self.volume: Floats = np.mean(volumes, axis=0)
        self.at: dict[float, Floats] = {loss: np.mean(found, axis=0) for loss, found in at.items()}


def all_wishes(wishes: Wishes) -> list[Wish]:
    """Each wish of an experiment."""
    found = [*(Wish("fa_loss", loss) for loss in wishes.fa_losses), *(Wish("hs_limit", h) for h in wishes.hs_limits)]
    return found if wishes.attack_share is None else [*found, Wish("attack", wishes.attack_share)]


class _Pick:
    """What one method has for a wish: chosen on validation, ``again`` on the test half."""

    def __init__(self, wish: Wish, seen: _Half, fresh: _Half, candidates: Sequence[int]) -> None:
        self.chosen, self.again = (
            [wish.choose(hs[:, unit], fa[:, unit], candidates) for unit in range(hs.shape[1])]
            for hs, fa in ([of[0] for of in half.drawn] for half in (seen, fresh))
        )
        told_by_own = seen.at(self.chosen), fresh.at(self.again)
        told_by_other = fresh.at(self.chosen), seen.at(self.again)
        hs, fa = np.mean(told_by_own, axis=0) - np.mean(told_by_other, axis=0)
        self.flattered: tuple[Floats, Floats] = (hs if wish.kind == "attack" else -hs), fa  # attackers like a higher HS
        own_hs, own_fa = (float(of[0].mean()) for of in told_by_own[0])
        hs, fa = (of[0] for of in seen.drawn)
        self.missed = [float(wish.missing(hs[:, u], fa[:, u])[point]) for u, point in enumerate(self.chosen)]
        wanted = (-own_fa, own_hs) if wish.kind == "hs_limit" else (own_hs, -own_fa)
        self.rank = float(np.mean(self.missed)), *wanted


def _commonest(scores: Scores, chosen: Sequence[int]) -> str:
    """What was chosen, and in how many units where they differ."""
    ((point, count),) = Counter(chosen).most_common(1)
    ends = {UNTOUCHED: "left untouched", UNDEFENDED: "off (SFT)"}
    words = scores.points[point].setting or ends.get(point, "as it is")
    return words if count == len(chosen) else f"{words} ({count} of {len(chosen)})"
