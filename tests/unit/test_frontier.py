"""Fronts over strengths: what is chosen, where the front lies, and that a known winner is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from frontier_simulation import CONTROLS, WISHES, Tally, cells, simulate
from synthetic_store import write_cell

from asft.cells.compose import Sweep, enumerate_cells
from asft.commands.report import report
from asft.config import ConfigError, Wishes
from asft.data.rows import in_even_half
from asft.frontier.compare import Frontier, Verdict, compare, frontier_of
from asft.frontier.front import Estimate, Wish, at_accuracy, corners, estimate, lower_corner, volume
from asft.frontier.scores import scores_of
from asft.frontier.write import page_data, parts, render, summary, verdict_lines

# The untouched model, the undefended one, and four strengths of a method; the fourth is no corner.
HS = np.array([0, 50, 46, 20, 15, 4.0])
FA = np.array([10, 90, 89, 85, 60, 70.0])


@pytest.mark.parametrize(
    ("kind", "amount", "chosen"),
    [
        ("fa_loss", 0, 1),  # nothing keeps all of it: the method is switched off
        ("fa_loss", 1, 2),
        ("fa_loss", 5, 3),
        ("hs_limit", 20, 3),
        ("hs_limit", 5, 5),
        ("hs_limit", 0, 0),  # the model is left as it was
        ("attack", 0.9, 1),
        ("attack", 1.1, 1),  # none keeps so much: the nearest
    ],
)
def test_a_wish_chooses_a_strength(kind: str, amount: float, chosen: int) -> None:
    assert Wish(kind, amount).choose(HS, FA, range(6)) == chosen  # type: ignore[arg-type]


def test_the_front_is_the_hull_from_the_untouched_to_the_undefended_model() -> None:
    path = corners(HS, FA, range(6))
    assert path == [0, 5, 3, 1]  # 89/46 lies above the line from 85/20 to 90/50
    hs, fa = HS[None, path], FA[None, path]
    assert at_accuracy(hs, fa, np.array([77.5]))[0] == pytest.approx(12)  # half way from 70/4 to 85/20
    assert at_accuracy(hs, fa, np.array([95.0]))[0] == 50
    # Trapezoids of the box 80 × 50: 60·(50 + 46)/2 + 15·(46 + 30)/2 + 5·(30 + 0)/2
    assert volume(hs, fa)[0] == pytest.approx(100 * (2880 + 570 + 75) / 4000)
    assert volume(HS[None, :2], FA[None, :2])[0] == pytest.approx(50)  # mixing the two ends


def test_what_beats_both_ends_is_taken_as_it_is() -> None:
    hs, fa = np.array([[20.0, 55, 10, 11]]), np.array([[16.0, 50, 74, 49]])  # FA above SFT's, HS below the untouched
    path = corners(hs[0], fa[0], [0, 1, 2])
    assert path == [0, 2, 1]
    front, target = (hs[:, path], fa[:, path]), np.array([47.0])
    assert at_accuracy(*front, target)[0] == pytest.approx(20 - 10 * 31 / 58)  # for half of the queries
    assert at_accuracy(*front, target, lower_corner(hs[0, path], fa[0, path], 47))[0] == 10
    assert at_accuracy(*front, np.array([75.0]), 1)[0] == 55  # in this draw the corner does not reach it
    assert lower_corner(hs[0, [0, 3, 1]], fa[0, [0, 3, 1]], 47) == 1
    assert lower_corner(HS[[0, 5, 3, 1]], FA[[0, 5, 3, 1]], 77.5) is None  # a front between its ends: HS rises with FA
    one = estimate(np.array([[149.0], [140.0], [158.0]]), np.array([0]), least=0.0)
    assert one.lo < one.value == 149 < one.hi
    assert volume(*front)[0] > 100


def test_what_no_row_tells_apart_has_an_interval_and_rounding_is_no_difference() -> None:
    same = estimate(np.zeros((10, 1)), np.array([0]), 125, less=True)
    assert (same.lo, same.hi, same.p) == (pytest.approx(-2.98, abs=0.01), pytest.approx(2.98, abs=0.01), 1)
    noise = np.array([[1e-14], [-1e-14], [3e-14]])
    assert estimate(noise, np.array([0]), 125, less=True) == same
    whole = estimate(100 - np.abs(noise), np.array([0]), 125)
    assert (whole.lo, whole.hi) == (pytest.approx(97.02, abs=0.01), 100)


def test_one_pairs_interval_is_of_prompts_and_several_pairs_count_by_their_spread() -> None:
    rng = np.random.default_rng(0)
    prompts = 30 + np.vstack([np.zeros((1, 1)), rng.normal(size=(4000, 1))])
    one = estimate(prompts, np.array([0]))
    assert (one.lo, one.hi) == pytest.approx((30 - 1.96, 30 + 1.96), abs=0.1)
    shifts = np.array([-8.0, -2, 1, 3, 6])
    five = estimate(prompts + shifts, np.arange(5))  # the prompts move all pairs alike
    error = np.sqrt(shifts.var(ddof=1) / 5 + 1)
    assert five.hi - five.value == pytest.approx(
        2.4 * error, rel=0.1
    )  # Student's t with four to six degrees of freedom
    assert (
        estimate(prompts + np.repeat(shifts, 2), np.repeat(np.arange(5), 2)) == five
    )  # a second seed is no sixth pair
    two = estimate(prompts + np.array([20.0, -20]), np.arange(2), least=0.0)
    assert (two.lo, two.hi) == (0, 100)  # hardly more than one degree of freedom
    none = estimate(np.zeros((10, 1)), np.array([0]), 125)
    assert (none.lo, none.hi) == pytest.approx((0, 2.98), abs=0.01)  # Wilson's of 0 of 125, not a point


def check(tally: Tally, low: float, high: float) -> None:
    for name, share in tally.covered.items():
        assert low <= share <= high, name
    assert tally.words["winner", "control"].count("better") >= 0.95 * len(tally.words["winner", "control"])
    assert tally.words["nothing", "sft"].count("not shown") >= 0.8 * len(tally.words["nothing", "sft"])
    assert np.mean(np.array(tally.winners) == "winner") > 0.9


def test_a_known_winner_is_found() -> None:
    for pairs in (1, 5):
        check(simulate(pairs, 25, resamples=200), 0.8, 1)


@pytest.mark.nightly
@pytest.mark.parametrize("pairs", [1, 5])
def test_intervals_cover_and_choosing_on_test_flatters(pairs: int) -> None:
    tally = simulate(pairs, 1000)
    check(tally, 0.925, 0.975)  # 95 ± 2 %, and half a point for what 1,000 draws leave open
    (told_hs, told_fa), (hs, fa) = (np.mean(found, axis=0) for found in (tally.told, tally.reported))
    assert told_fa > 0.2 > abs(fa)  # the strength seems to keep more accuracy than it does
    assert told_hs < hs < 0.2


def test_halves_are_of_the_text_alone() -> None:
    assert [in_even_half(f"Prompt {i}") for i in range(8)] == [in_even_half(f"Prompt {i}") for i in range(8)]
    assert 400 < sum(in_even_half(f"Prompt {i}") for i in range(1000)) < 600


def finished(tmp_path: Path, *words: str, leave: str = "") -> tuple[list[str], Sweep]:
    """A synthetic store with the cells of a sweep; no training, no model."""
    overrides = [*words, f"outputs={tmp_path}"]
    sweep = enumerate_cells(overrides, sweep=True)
    for job in sweep.cells:
        if not (leave and leave in str(job.axes)):
            write_cell(job, 40, 40, steps=1, learned=0.1 if job.cell.method.name == "aligned" else 0.9)
    return overrides, sweep


@pytest.mark.slow
def test_it_is_reported_from_kept_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiment=frontier", "method=aligned,sft,asft,l2", "method.lam=0.3,1", "model.seed=0,1"]
    overrides, sweep = finished(tmp_path, *words, leave="'0.3'")
    found = frontier_of(sweep, "asft run -m experiment=frontier")
    assert (found.pairs, found.units) == (2, 2)
    assert found.rows == (40, 40)
    assert found.left_out == ("Not finished: AsFT λ = 0.3, L2 (Ĉ = 0) λ = 0.3.",)
    assert [(v.method, v.control) for v in found.verdicts] == [("asft", "l2"), ("asft", "sft"), ("l2", "sft")]
    assert len(found.choices) == 3 * 4
    assert sum(choice.best for choice in found.choices) == 4
    page = render(found)
    assert all(part.title in page for part in parts(found))
    assert report(overrides) == 0
    out = capsys.readouterr().out
    assert "AsFT: " in out
    folder = Path(out.strip().rpartition("Page: ")[2]).parent
    assert json.loads((folder / "frontier.json").read_text())["pairs"] == 2
    assert (folder / "points.csv").read_text().startswith("method,series,setting,corner,hs,hs_lo,")
    assert (folder / "data" / "frontiers" / "frontier.js").is_file()
    with pytest.raises(ConfigError, match="--format pdf: a comparison over strengths is no table"):
        report([*overrides, "--format", "pdf"])


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["frontier", "attacker"])
def test_a_published_pair_has_its_cells_as_well(experiment: str) -> None:
    words = [f"experiment={experiment}", "method=aligned,sft", "model=pair", "model.base=a/b", "model.aligned=a/c"]
    assert {job.cell.model.name for job in enumerate_cells(words, sweep=True).cells} == {"pair"}


@pytest.mark.slow
def test_its_cells_are_those_of_single_runs() -> None:
    keys = {job.key for job in enumerate_cells(["experiment=frontier"], sweep=True).cells}
    for words in (
        ["method=sft"],
        ["method=sft", "training.lr=5e-5"],
        ["method=asft", "lam=10"],
        ["method=safe_lora", "model.recipe.safe_lora_modules=4"],
        ["method=wise_ft", "method.share=0.4"],
    ):
        assert enumerate_cells(words, sweep=False).cells[0].key in keys


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["frontier_field", "frontier_smollm2"])
def test_the_others_have_the_plainest_control_of_each_method(experiment: str, published: Path) -> None:
    data = [f"data.root={published}"] if "smollm2" in experiment else []
    methods = {job.cell.method for job in enumerate_cells([f"experiment={experiment}", *data], sweep=True).cells}
    names = {method.name for method in methods}
    assert all(method.controls[0] in names for method in methods if method.controls)


@pytest.mark.slow
def test_the_strongest_attack_is_told_against_each_control(tmp_path: Path) -> None:
    _, sweep = finished(tmp_path, "experiment=attacker", "method=aligned,sft,asft,l2")
    found = frontier_of(sweep, "")
    assert [(v.method, v.control) for v in found.verdicts] == [("asft", "l2"), ("asft", "sft"), ("l2", "sft")]
    assert {choice.method for choice in found.choices} == {"sft", "asft", "l2"}
    assert not found.methods
    assert summary(found).endswith("Not shown to differ: AsFT from L2 (Ĉ = 0); L2 (Ĉ = 0) from SFT.")
    assert "HS under the strongest attack" in render(found)
    assert "Volume:" not in render(found)
    assert "lr = 0.0004, epochs = 8, p = 0.2" in {point.setting for point in found.points}


def test_what_grants_no_wish_gets_no_star_and_no_verdict() -> None:
    scores, _ = cells(2, np.random.default_rng(0))
    winner = scores.of("winner")
    attack = Wishes(fa_losses=(), hs_limits=(), attack_share=0.9)
    assert "winner" in {item.method for item in compare(scores, attack, CONTROLS, 50).verdicts}
    limit = Wishes(fa_losses=(), hs_limits=(5,), attack_share=None)
    assert any(choice.best for choice in compare(scores, limit, CONTROLS, 50).choices)
    scores.validation.fa[winner, 0] = 0  # in the first pair no attack on it leaves a useful model
    found = compare(scores, attack, CONTROLS, 50)
    assert "winner" not in {name for item in found.verdicts for name in (item.method, item.control)}
    (told,) = (choice.setting for choice in found.choices if choice.method == "winner")
    assert told.endswith("none keeps so much in 1 of 2")
    scores.validation.hs[:] = 1  # nor does any strength of any method give an HS of 5
    choices = compare(scores, limit, CONTROLS, 50).choices
    assert not any(choice.best for choice in choices)
    assert all(choice.setting.endswith("; none grants it in 2 of 2") for choice in choices)


@pytest.mark.slow
def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    words = ["experiment=frontier", "method=aligned,sft"]
    empty = enumerate_cells([*words, f"outputs={tmp_path}"], sweep=True)
    with pytest.raises(ConfigError, match="the untouched and the undefended model come first"):
        scores_of(empty)
    with pytest.raises(ConfigError, match="dataset=agnews,sst2: strengths are compared on one task"):
        scores_of(enumerate_cells([*words, "dataset=agnews,sst2"], sweep=True))
    with pytest.raises(ConfigError, match="need method=aligned and method=sft"):
        scores_of(enumerate_cells(["experiment=frontier", "method=l2"], sweep=True))


def test_prompts_are_the_same_for_all() -> None:
    """Two methods with the same verdicts have a difference of exactly zero: they are compared on the same draws."""
    scores, _ = cells(2, np.random.default_rng(0))
    scores.validation.hs[7:12], scores.validation.fa[7:12] = scores.validation.hs[2:7], scores.validation.fa[2:7]
    scores.test.hs[7:12], scores.test.fa[7:12] = scores.test.hs[2:7], scores.test.fa[2:7]
    verdict = compare(scores, WISHES, CONTROLS, 50).verdicts[0]
    assert (verdict.control, verdict.gain.value, verdict.gain.lo, verdict.word) == ("control", 0, 0, "not shown")


@pytest.fixture(scope="module")
def synthetic() -> Frontier:
    return compare(cells(2, np.random.default_rng(0))[0], WISHES, CONTROLS, 50)


@pytest.mark.parametrize(
    ("gain", "p", "at", "holds", "line"),
    [
        (2, 0.01, 3, (5.0,), "A: better than B."),
        (2, 0.01, -3, (5.0,), "A: better than B (yet HS is higher at FA = SFT − 5)."),
        (2, 0.01, -3, (), "A: better than B."),
        (-2, 0.01, 3, (5.0,), "A: worse than B (yet HS is lower at FA = SFT − 5)."),
        (-2, 0.5, 3, (5.0,), "A: not shown to differ from B (yet HS is lower at FA = SFT − 5)."),
    ],
)
def test_a_sentence_says_where_equal_accuracy_says_otherwise(
    synthetic: Frontier, gain: float, p: float, at: float, holds: tuple[float, ...], line: str
) -> None:
    whole, equal = (Estimate(value, value - 1, value + 1, p) for value in (gain, at))
    found = replace(synthetic, verdicts=(Verdict("a", "A", "b", "B", whole, {5.0: equal}, p, holds),))
    assert verdict_lines(found) == [line]
    assert ("Not shown to differ: A from B." in summary(found)) is (p == 0.5)


def test_what_another_half_would_choose_is_told_where_it_differs(synthetic: Frontier) -> None:
    differing = [choice for choice in synthetic.choices if choice.told]
    assert 0 < len(differing) < len(synthetic.choices)
    assert all(choice.told != (choice.hs, choice.fa) for choice in differing)
    assert any("the same" in row for part in parts(synthetic) for row in part.rows)


def test_every_front_is_drawn_from_end_to_end(synthetic: Frontier) -> None:
    rows = page_data(synthetic)["chart"]["rows"]
    for method in synthetic.methods:
        joined = [row for row in rows if row["series"] == method.label and row["corner"]]
        ends = [(p.hs.value, p.fa.value) for p in synthetic.points[:2]]
        line = [(row["hs"], row["fa"]) for row in sorted(joined, key=lambda row: row["along"])]
        assert [line[0], line[-1]] == ends
