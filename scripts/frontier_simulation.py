"""Cells with a known front and a known winner: whether ``asft report experiment=frontier`` finds them.

Usage: ``python scripts/frontier_simulation.py [DRAWS]``, by default 1,000 synthetic sweeps of one and of five pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from asft.config import Wishes
from asft.frontier.compare import Frontier, compare
from asft.frontier.front import Estimate, Floats, Wish, at_accuracy, corners, volume
from asft.frontier.scores import Half, Point, Scores

# HS and FA of the true curves: the ends, a method, its plainest control, and one that is SFT under another name.
HS = np.array([1, 56, 46, 37, 26, 14, 4, 50, 44, 36, 27, 18, 56, 56.0])
FA = np.array([14, 99, 98.6, 98, 97, 95, 90, 98.4, 97.5, 96, 93.5, 89, 99, 99.0])
METHODS = ("aligned", "sft", *["winner"] * 5, *["control"] * 5, *["nothing"] * 2)
CONTROLS = {"winner": ("control", "sft"), "control": ("sft",), "nothing": ("sft",)}
WISHES = Wishes(fa_losses=(5.0,), hs_limits=(20.0,))
PAIR_SPREAD = 0.6  # of HS between pairs, in probits
ROWS = (250, 500)
NAMES = ("volume", "lead in volume", "HS", "lead in HS")  # of the winner, and over the control; HS at FA = SFT − 5


@dataclass
class Tally:
    """What the draws came to.

    Attributes:
        intervals, attained: each estimate's 95% interval, and the true value for the strengths that were chosen.
        words, winners: verdicts by method and control, and who was chosen for each wish.
        told, reported: told minus true HS and FA of a strength chosen on the test half, and on validation.
    """

    pairs: int
    intervals: list[list[tuple[float, float]]] = field(default_factory=list)
    attained: list[list[float]] = field(default_factory=list)
    words: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    winners: list[str] = field(default_factory=list)
    told: list[tuple[float, float]] = field(default_factory=list)
    reported: list[tuple[float, float]] = field(default_factory=list)

    @property
    def covered(self) -> dict[str, float]:
        """How often each interval holds what it is about: the fronts as chosen; of several pairs, of all such pairs."""
        ends, true = np.array(self.intervals), np.array(self.attained)
        about = true if self.pairs == 1 else true.mean(axis=0)
        inside = (ends[:, :, 0] <= about) & (about <= ends[:, :, 1])
        return dict(zip(NAMES, inside.mean(axis=0).tolist(), strict=True))


def probits(percent: Floats) -> Floats:
    """The latent means whose share above zero is so many percent."""
    found: Floats = ndtri(percent / 100)
    return found


def attained(scores: Scores, hs: Floats) -> list[float]:
    """The true :data:`NAMES` of the fronts whose corners these halves choose; ``hs`` are the pairs' true HS."""
    found = []
    for half in (scores.validation, scores.test):
        for unit in range(hs.shape[1]):
            seen_hs, seen_fa = (of[:, unit].mean(axis=1) for of in (half.hs, half.fa))
            paths = [corners(seen_hs, seen_fa, [0, 1, *range(first, first + 5)]) for first in (2, 7)]
            fronts = [(hs[None, path, unit], FA[None, path]) for path in paths]
            (mine, theirs), target = (volume(*front)[0] for front in fronts), np.array([FA[1] - 5])
            own, other = (at_accuracy(*front, target)[0] for front in fronts)
            found.append([mine, mine - theirs, own, other - own])
    return np.mean(found, axis=0).tolist()


def cells(pairs: int, rng: np.random.Generator) -> tuple[Scores, NDArray[np.float64]]:
    """One synthetic sweep, and the true HS of its pairs; points, and in part pairs, share each prompt's difficulty."""
    shift = PAIR_SPREAD * rng.normal(size=pairs) if pairs > 1 else np.zeros(1)
    latent = [probits(HS)[:, None] + np.outer(np.arange(len(HS)) > 0, shift), np.tile(probits(FA)[:, None], pairs)]
    halves = []
    for means, rows in zip(latent, ROWS, strict=True):
        shared, own = rng.normal(size=rows), rng.normal(size=(pairs, rows))
        noise = np.sqrt(0.35) * (shared + own) + np.sqrt(0.3) * rng.normal(size=(len(HS), pairs, rows))
        drawn = (noise < means[:, :, None]).astype(float)
        halves.append((drawn[..., : rows // 2], drawn[..., rows // 2 :]))
    validation, test = (Half(*side) for side in zip(*halves, strict=True))
    settings = ("", "", *(f"{i}" for i in range(len(METHODS) - 2)))
    points = tuple(Point(name, name, setting) for name, setting in zip(METHODS, settings, strict=True))
    return Scores(points, np.arange(pairs), validation, test, ()), 100 * ndtr(latent[0])


def simulate(pairs: int, draws: int, resamples: int = 1000, seed: int = 0) -> Tally:
    """So many synthetic sweeps of so many pairs."""
    rng, tally = np.random.default_rng(seed), Tally(pairs)
    for _ in range(draws):
        scores, hs = cells(pairs, rng)
        found = compare(scores, WISHES, CONTROLS, resamples)
        tally.intervals.append([(estimate.lo, estimate.hi) for estimate in estimates(found)])
        tally.attained.append(attained(scores, hs))
        for verdict in found.verdicts:
            tally.words.setdefault((verdict.method, verdict.control), []).append(verdict.word)
        tally.winners += [choice.method for choice in found.choices if choice.best]
        for into, half in ((tally.told, scores.test), (tally.reported, scores.validation)):
            into += list(excess(half, scores.test, hs))
    return tally


def estimates(found: Frontier) -> tuple[Estimate, ...]:
    """The estimates of :data:`NAMES`."""
    (row,) = (row for row in found.methods if row.method == "winner")
    (verdict,) = (item for item in found.verdicts if item.control == "control")
    return row.volume, verdict.gain, row.at[5.0], verdict.at[5.0]


def excess(chosen_on: Half, told_by: Half, hs: Floats) -> Iterator[tuple[float, float]]:
    """Told minus true HS and FA of the strength that one half chooses and the test half tells, a pair at a time."""
    for unit in range(hs.shape[1]):
        seen_hs, seen_fa = (100 * of[:, unit].mean(axis=1) for of in (chosen_on.hs, chosen_on.fa))
        point = Wish("fa_loss", 5.0).choose(seen_hs, seen_fa, [0, 1, *range(2, 7)])
        told = [100 * of[point, unit].mean() for of in (told_by.hs, told_by.fa)]
        yield told[0] - hs[point, unit], told[1] - FA[point]


def main() -> None:
    """Prints how often intervals cover, the winner is found, and how much choosing on test flatters."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for pairs in (1, 5):
        tally = simulate(pairs, draws)
        covered = ", ".join(f"{name} {100 * share:.1f}" for name, share in tally.covered.items())
        print(f"{pairs} pair(s), {draws} sweeps; 95% intervals cover, in %: {covered}")
        for (method, control), words in tally.words.items():
            print(f"  {method} against {control}: " + ", ".join(f"{w} {words.count(w)}" for w in sorted(set(words))))
        print(f"  winner chosen in {100 * np.mean(np.array(tally.winners) == 'winner'):.1f} % of wishes")
        for name, found in (("chosen on test", tally.told), ("chosen on validation", tally.reported)):
            hs, fa = np.mean(found, axis=0)
            print(f"  {name}: told minus true, HS {hs:+.2f}, FA {fa:+.2f}")


if __name__ == "__main__":
    main()
