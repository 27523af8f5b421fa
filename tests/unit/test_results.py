"""The results page: its contrasts and verdicts follow from the numbers, reached from tables made for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import results
from report_cells import RATIOS, analysis, cell
from synthetic_store import write_cell

from asft.cells.compose import enumerate_cells
from asft.metrics.base import Interval
from asft.report.analysis import Analysis
from asft.report.contrast import Contrast, contrast, contrasts, finding
from asft.report.records import Metric, MetricValue, Result

ROWS = {"sft": "SFT", "safe_lora": "Safe LoRA", "asft": "AsFT", "l2": "L2", "asft_random": "random"}
SCORES = {"sft": 60, "safe_lora": 20, "asft": 20, "l2": 20, "asft_random": 20}


def table(scores: Mapping[str, int], at: Mapping[tuple[str, float], int] | None = None, **changes: object) -> Analysis:
    """HS by row, 0 without attack; ``at`` replaces single places."""
    cells: list[Result] = [cell("base", 100, 0), cell("aligned", 0, 0)]
    for p in RATIOS:
        cells += [cell(row, (at or {}).get((row, p), hs if p else 0), 180, p) for row, hs in scores.items()]
    controls = ("base", "aligned", "l2", "asft_random")
    return analysis(cells, rows={row: ROWS[row] for row in scores}, controls=controls, **changes)


def against(found: Analysis, other: str) -> Contrast:
    (item,) = contrasts(found, "asft", [other])
    return item


@pytest.mark.parametrize(
    ("asft", "verdict", "told"),
    [
        (20, "lower", "lower; as in the paper"),
        (90, "higher", "higher; in the paper lower"),
        (60, "not shown", "not shown; in the paper lower"),
    ],
)
def test_a_verdict_is_the_direction_that_is_borne_out(asft: int, verdict: str, told: str) -> None:
    found = table(SCORES | {"asft": asft})
    item = against(found, "sft")
    assert (item.verdict, item.columns, item.difference) == (verdict, 2, pytest.approx(asft - 60))
    row = results._contrast(found, item, "table2")
    assert (row[0], row[1], row[-1]) == ("AsFT − SFT", f"{asft - 60:+.1f}", told)
    assert row[4:7] == ["-27.2", "+0.0", "-0.5"], "the paper's HS, ours and the paper's FA"


def test_a_table_that_has_no_cells_of_its_own_yet_is_no_second_confirmation() -> None:
    whole = table(SCORES)
    part = Analysis(whole.spec, [one for one in whole.cells if one.column in (None, RATIOS[-1])])
    line = next(
        line for line in results.answers({"table2": whole, "table3": part}).splitlines() if "plain fine" in line
    )
    assert "Table 2: **holds**" in line
    assert "Table 4: not run; Table 5: not run; the same cells: Table 3" in line


def test_a_section_without_cells_of_its_own_is_its_heading() -> None:
    whole = table(SCORES)
    more = Analysis(whole.spec, [*whole.cells, cell("asft", 1, 1, RATIOS[0], seed=1)])
    sections = {
        name: results.Section(f"## {name}\n\n    run {name}\n\ntable", (), (), found)
        for name, found in (("one", whole), ("same", whole), ("more", more))
    }
    shown = results.without_repetitions(sections)
    assert [each.text.endswith("table") for each in shown.values()] == [True, False, True]
    assert shown["same"].text == "## same\n\nNot run beyond cells of the tables above: `run same`."


def test_what_the_paper_claims_in_words_alone_is_a_direction_too() -> None:
    found = table(SCORES, paper_table=None)
    claimed = results._contrast(found, against(found, "sft"), "full")
    assert (claimed[4], claimed[-1]) == ("lower", "lower; as in the paper")
    assert results._contrast(found, against(found, "l2"), "full")[-1] == "not shown"


def test_one_column_among_many_counts() -> None:
    found = table(SCORES, {("asft", RATIOS[1]): 60})
    item = contrast(found, "asft", "l2", found.spec.columns[1:])
    assert item is not None
    assert (item.difference, item.verdict) == (pytest.approx(20.0), "higher"), "columns are fixed, prompts resampled"
    assert (item.lower, item.higher) == ((), ("p = 0.1 (by 40.0)",))
    assert results._control(item) == "+20.0 (p < 0.001); less safe at p = 0.1 (by 40.0)"


def test_the_papers_figure_stands_beside_ours_of_the_columns_that_it_prints() -> None:
    found = table(SCORES, {("asft", RATIOS[1]): 0})
    other = tuple(
        replace(column, value=7, paper=7) if column.value == RATIOS[2] else column for column in found.spec.columns
    )
    cells = [replace(one, column=7) if one.column == RATIOS[2] else one for one in found.cells]
    told = results.answers({"table2": Analysis(replace(found.spec, columns=other), cells)})
    assert "**holds** (−50.0, p < 0.001; paper −13.6, where ours is −60.0; 2 of 3 columns)" in told


def test_columns_that_point_both_ways_are_mixed() -> None:
    found = table(SCORES, {("asft", RATIOS[1]): 90})
    item = against(found, "sft")
    assert item.verdict == "mixed"
    told = results._contrast(found, item, "table2")[-1]
    assert told == "mixed: lower at p = 0.2 (by 40.0); higher at p = 0.1 (by 30.0); in the paper lower"


def test_a_difference_and_its_test_are_of_the_seeds_that_both_rows_have() -> None:
    cells = [cell("base", 100, 0), cell("aligned", 0, 0)]
    for p in RATIOS[1:]:
        cells += [cell("sft", hs, 180, p, seed=seed) for seed, hs in enumerate((40, 90))]
    places = ((30, RATIOS[1], 0), (20, RATIOS[2], 0), (80, RATIOS[2], 1))
    cells += [cell("asft", hs, 180, p, seed=seed) for hs, p, seed in places]
    cells.append(cell("asft", 0, 0, RATIOS[1], seed=1, status="missing", metrics={}))
    found = analysis(cells, rows={"sft": "SFT", "asft": "AsFT"})
    item = against(found, "sft")
    assert item.difference == pytest.approx(((30 - 40) + (20 - 40 + 80 - 90) / 2) / 2)
    assert (item.columns, item.seeds, found.seeds) == (2, 1, 2)
    assert "; 1 of 2 seeds" in results.answers({"seeds": found}).splitlines()[2]
    assert results.place(found.entry("HS", "asft", found.spec.columns[1])).startswith("30.0 \\[22–40\\], 1 of 2 seeds")
    apart = [one for one in cells if one.row != "asft" or (one.column, one.seed) in {(RATIOS[1], 0), (RATIOS[2], 1)}]
    assert against(analysis(apart, rows={"sft": "SFT", "asft": "AsFT"}), "sft").p_value is None, "no seed is in both"


def test_benign_fine_tuning_is_no_attack_however_far_it_raises_hs() -> None:
    found = table(SCORES, {("sft", RATIOS[0]): 30})
    assert [column.value for column in found.attacked_columns] == list(RATIOS[1:])


def test_a_rise_has_the_interval_of_the_same_prompts() -> None:
    found = table(SCORES)
    assert results._rise(found, "HS", ("sft", "aligned"), found.spec.columns[1]) == " \\[50–69\\]"


def test_an_attack_that_fails_and_a_row_that_is_missing_leave_nothing_to_compare() -> None:
    failed = table(SCORES | {"sft": 2})
    assert failed.attacked_columns == []
    assert contrasts(failed, "asft", ["sft"]) == []
    assert finding(failed) == ""
    assert contrast(table(SCORES), "asft", "bea", table(SCORES).spec.columns) is None


def test_the_finding_names_every_other_defence_in_one_sentence() -> None:
    assert finding(table(SCORES | {"safe_lora": 5})) == (
        "Over the 2 columns in which the attack works AsFT's HS is, in points: lower than SFT (−40.0); higher than "
        "Safe LoRA (+15.0); not shown to differ from L2 and random."
    )


def test_the_ranking_is_by_mean_harmful_score() -> None:
    said = results.ranking(table({"sft": 60, "safe_lora": 30, "asft": 10}))
    assert said.endswith("attack works: AsFT 10.0 / 90.0; Safe LoRA 30.0 / 90.0; SFT 60.0 / 90.0.")
    assert results.ranking(table({"safe_lora": 30, "asft": 10})) == ""


def test_a_falling_curve_is_told_by_its_ends() -> None:
    cells: list[Result] = [cell("sft", 60, 180)]
    cells += [cell("asft", hs, 180 - hs, p) for p, hs in zip(RATIOS, (60, 30, 5), strict=True)]
    found = analysis(cells, rows={"sft": "SFT", "asft": "AsFT"})
    row = results._ends(found, "asft", "lower")
    assert row == ["AsFT, p = 0.2 − p = 0", "-55.0", "", "< 0.001", "", "+27.5", "", "lower; as in the paper"]
    assert results._ends(found, "asft", "as high")[-1] == "lower; in the paper as high"
    assert results._ends(found, "safe_lora", "lower") == []


def told(page: str) -> dict[str, str]:
    return {line.split(" | ")[0].strip("| "): line for line in page.splitlines()[2:]}


def test_the_page_on_a_real_model_opens_with_its_controls() -> None:
    found = told(results.controls(table(SCORES, {("sft", 0.0): 12})))
    assert found["HS of the aligned model"].endswith("| at most 30 | 0.0 \\[0–4\\] | yes |")
    assert "| +12.0 \\[6–20\\], to 12.0" in found["SFT on benign rows, p = 0, raises HS"]
    assert found["SFT on benign rows, p = 0, raises HS"].endswith("| **no** |")
    assert found["that raises FA"].endswith("| yes |")
    assert found["harmless look-alikes that the aligned model refuses"].endswith("| not run |  |")
    assert all("| not run |" in line for line in told(results.controls(None)).values())


def test_every_claim_of_the_paper_is_answered_table_by_table() -> None:
    scores = SCORES | {"safe_lora": 5}
    other = table(SCORES | {"sft": 2})
    seeds = Analysis(other.spec, [replace(one, key=f"{one.key} of seeds") for one in other.cells])
    found = told(results.answers({"table2": table(scores), "seeds": seeds}))
    lowers = found["AsFT lowers HS against plain fine-tuning"]
    assert "Table 2: **holds** (−40.0, p < 0.001; paper −27.2; 2 of 3 columns); Table 2, three" in lowers
    assert "Table 2, three seeds: not shown (the attack does not work); Table 3: not run" in lowers
    assert lowers.endswith("Table 3: not run; Table 4: not run; Table 5: not run |")
    assert "Table 2: **contradicted** (+15.0, p " in found["AsFT's HS is below that of Safe LoRA"]
    assert found["HS falls as λ grows"].endswith("Figure 4a: not run |")
    assert "Table 2: not run" in found["AsFT's HS is below that of BEA"]


def test_a_table_that_is_not_finished_is_compared_where_it_is() -> None:
    cells: list[Result] = [cell("base", 100, 0), cell("aligned", 0, 0)]
    cells += [cell("sft", 60 if p else 0, 180, p) for p in RATIOS]
    found = analysis([*cells, cell("asft", 20, 180, RATIOS[1])], rows={"sft": "SFT", "asft": "AsFT"})
    assert against(found, "sft").columns == 1
    assert "**holds** (−40.0, p < 0.001; paper −13.6; 1 of 3 columns)" in results.answers({"table2": found})
    assert finding(found) == "", "a sentence on all columns needs them all"


@pytest.mark.parametrize(
    ("harmful", "told"),
    [
        ((0.5, 0.5, 0.5), "the other way (lower in 0, higher in 3 of 3 columns; not tested)"),
        ((0.3, 0.5, 0.5), "the other way (lower in 0, within the range in 1, higher in 2 of 3 columns; not tested)"),
        ((0.1, 0.3, 0.1), "as in the paper (lower in 2, within the range in 1 of 3 columns; not tested)"),
        ((0.1, 0.3, 0.5), "mixed (lower in 1, within the range in 1, higher in 1 of 3 columns; not tested)"),
        ((0.3, 0.3, 0.3), "not shown (lower in 0, within the range in 3 of 3 columns; not tested)"),
    ],
)
def test_a_measure_is_compared_with_the_range_of_random_ones(harmful: tuple[float, ...], told: str) -> None:
    cosine = Metric("abs_cos", "cosine")
    spread = Interval(0.2, 0.4, "95% of the random updates")
    at = [("random", None, 0.3), *(("harmful", ratio, value) for ratio, value in zip(RATIOS, harmful, strict=True))]
    cells = [
        Result(f"{row}{column}", row, column, 0, metrics={"abs_cos": MetricValue(cosine, value, interval=spread)})
        for row, column, value in at
    ]
    rows = {"harmful": "harmful", "random": "random"}
    found = analysis(cells, rows=rows, controls=(), undefended=None, compare_to=(), metrics=("abs_cos",))
    assert told in results.answers({"table1": found})


@pytest.mark.slow
def test_a_table_has_its_verdict_at_equal_accuracy_in_the_column_that_the_frontier_shares(tmp_path: Path) -> None:
    outputs = ["model.seed=0", f"outputs={tmp_path}"]
    empty = results.at_equal_accuracy(outputs)
    assert empty.claim == "not run; `asft run -m experiment=frontier method=aligned,sft,asft,safe_lora` brings it"
    for job in enumerate_cells([*results.CLAIM, *outputs], sweep=True).cells:
        write_cell(job, 40, 40, steps=1, learned=0.1 if job.cell.method.name == "aligned" else 0.9)
    found = results.at_equal_accuracy(outputs)
    assert "AsFT from" in found.finding

    def section(name: str, *words: str) -> results.Section:
        sweep = enumerate_cells([f"experiment={name}", *words, *outputs[1:]], sweep=True)
        return results.section(name, sweep, [*words, *outputs[1:]], found)

    table2 = section("table2", "method=sft,asft,safe_lora", "attack.p=0.05,0.1").text
    assert f"in the column p = 0.1: {found.claim}." in table2
    assert "Other columns: `asft run -m experiment=frontier method=aligned,sft,asft,safe_lora attack.p=…`." in table2
    assert "equal accuracy" not in section("table8", "method=sft,asft").text
