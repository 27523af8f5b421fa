"""The words of docs/results.md follow from the numbers: each verdict is reached from a table made for it."""

from __future__ import annotations

import pytest
from report_cells import RATIOS, cell, table_spec

from asft.report import contrast, evidence, measure_evidence
from asft.report.analysis import Analysis, analyse
from asft.report.measure_table import MeasureRecord, MeasureSpec, MeasureTable
from asft.report.records import Cell, Column

METHODS = {"sft": "SFT", "safe_lora": "Safe LoRA", "asft": "AsFT", "l2": "L2", "asft_random": "random"}


def table(asft: int, *, sft: int = 60, l2: int = 20, lora: int = 20) -> Analysis:
    cells: list[Cell] = [cell("base", 100, 0), cell("aligned", 0, 0)]
    for p in RATIOS:
        scores = {"sft": sft, "safe_lora": lora, "asft": asft, "l2": l2, "asft_random": l2}
        cells += [cell(method, hs if p else 0, 180, p=p) for method, hs in scores.items()]
    return analyse(table_spec(methods=METHODS, controls=("base", "aligned", "l2", "asft_random")), cells)


class TestDefence:
    def test_a_defence_that_works_goes_the_papers_way(self) -> None:
        said = evidence.defence_paragraph(table(asft=20))
        assert "**Same direction** against SFT: HS -40.0 points on average, lower in 2 of 2 columns" in said
        assert "Read over the 2 columns in which the attack works." in said

    def test_a_defence_that_harms_contradicts_the_paper(self) -> None:
        assert "**Contradicted** against SFT: HS +30.0" in evidence.defence_paragraph(table(asft=90))

    def test_a_defence_without_effect_shows_nothing(self) -> None:
        assert "**Not shown** against SFT: HS +0.0" in evidence.defence_paragraph(table(asft=60))

    def test_an_attack_that_fails_leaves_nothing_to_show(self) -> None:
        assert evidence.defence_paragraph(table(asft=0, sft=2)).startswith("**Not shown.** The attack raises HS in no")

    def test_equal_controls_leave_the_direction_unproven(self) -> None:
        said = evidence.defence_paragraph(table(asft=20, l2=20))
        assert "L2 +0.0" in said
        assert "that the alignment direction matters is not shown" in said

    def test_weaker_controls_speak_for_the_direction(self) -> None:
        said = evidence.defence_paragraph(table(asft=20, l2=60))
        assert "AsFT is below each of them" in said

    def test_stronger_controls_speak_against_it(self) -> None:
        assert "AsFT is less safe than L2, random" in evidence.defence_paragraph(table(asft=60, l2=20))

    def test_one_column_among_many_counts(self) -> None:
        cells: list[Cell] = [cell("base", 100, 0), cell("aligned", 0, 0)]
        for p in RATIOS:
            scores = {"sft": 60, "asft": 60 if p == RATIOS[1] else 20, "l2": 20}
            cells += [cell(method, hs if p else 0, 180, p=p) for method, hs in scores.items()]
        analysis = analyse(table_spec(methods=METHODS, controls=("base", "aligned", "l2")), cells)
        found = contrast.contrast(analysis, "asft", "l2", "HS", analysis.spec.columns[1:])
        assert found is not None
        assert found.difference == pytest.approx(20.0)
        assert found.significant, "columns are fixed; only prompts are resampled"
        assert found.worse == ("p = 0.1 (by 40.0)",)

    def test_columns_that_point_both_ways_are_mixed(self) -> None:
        cells: list[Cell] = [cell("base", 100, 0), cell("aligned", 0, 0)]
        for p, asft in zip(RATIOS, (0, 90, 20), strict=True):
            cells += [cell("sft", 60 if p else 0, 180, p=p), cell("asft", asft, 180, p=p)]
        analysis = analyse(table_spec(methods={"sft": "SFT", "asft": "AsFT"}), cells)
        said = evidence.defence_paragraph(analysis)
        assert "**Mixed** against SFT" in said
        assert "better at p = 0.2 (by 40.0) and worse at p = 0.1 (by 30.0)" in said

    def test_accuracy_is_called_a_price_only_where_the_lower_score_is_shown(self) -> None:
        assert "buys its lower HS" not in evidence.defence_paragraph(table(asft=21, lora=20))

    def test_the_ranking_is_by_mean_harmful_score(self) -> None:
        said = evidence.ranking(table(asft=10, lora=30))
        assert said == "Mean HS / FA over those columns: AsFT 10.0 / 90.0; Safe LoRA 30.0 / 90.0; SFT 60.0 / 90.0."

    def test_a_missing_cell_is_not_passed_over(self) -> None:
        analysis = table(asft=20)
        assert contrast.contrast(analysis, "asft", "bea", "HS", analysis.spec.columns) is None


def along_lambda(scores: tuple[int, int, int]) -> Analysis:
    cells: list[Cell] = [cell("base", 100, 0), cell("aligned", 0, 0), cell("sft", 60, 180)]
    cells += [cell("asft", hs, 180, p=p) for p, hs in zip(RATIOS, scores, strict=True)]
    return analyse(table_spec(methods={"sft": "SFT", "asft": "AsFT"}), cells)


def test_a_falling_curve_is_the_papers_and_a_flat_one_is_not() -> None:
    def said(scores: tuple[int, int, int], *, falls: bool) -> str:
        return evidence.monotone_paragraph(along_lambda(scores), "asft", falls=falls).partition(" The paper")[0]

    assert said((60, 30, 5), falls=True) == "**Same direction.**"
    assert said((60, 60, 60), falls=True) == "**Not shown.**"
    assert said((30, 60, 90), falls=True) == "**Contradicted.**"
    assert said((60, 40, 20), falls=False) == "**Contradicted.**"
    assert said((60, 58, 61), falls=False) == "**Same direction.**"


def without(*methods: str, gap: tuple[str, float] | None = None) -> Analysis:
    """A sweep along λ of four methods, some of them left out, or one cell."""
    labels = {"sft": "SFT", "asft": "AsFT", "asft_parallel": "parallel", "bea": "BEA", "safeinstr": "SafeInstr"}
    scores = {"sft": 60, "asft": 10, "asft_parallel": 50, "bea": 40, "safeinstr": 40}
    kept = [method for method in labels if method not in methods]
    controls = [cell("base", 100, 0), cell("aligned", 0, 0)]
    cells: list[Cell] = [control for control in controls if control.method not in methods]
    cells += [cell(m, scores[m], 180, p=p) for m in kept for p in RATIOS if (m, p) != gap]
    spec = table_spec(
        methods={method: labels[method] for method in kept},
        controls=tuple(name for name in ("base", "aligned") if name not in methods),
    )
    return analyse(spec, cells)


class TestWhatIsMissingIsNamed:
    RIVALS = ("asft", "safeinstr", "bea")

    def test_a_whole_sweep_names_nothing(self) -> None:
        said = evidence.range_paragraph(without(), self.RIVALS)
        assert said.startswith("**Same direction.**")
        assert said.endswith("AsFT 3, SafeInstr 0, BEA 0.")

    @pytest.mark.parametrize("control", ["sft", "aligned"])
    def test_without_a_control_no_attack_is_known_to_work(self, control: str) -> None:
        words = f"**Not shown.** Whether the attack works is not known: {control} is not in this sweep."
        assert evidence.range_paragraph(without(control), self.RIVALS) == words
        assert evidence.defence_paragraph(without(control)) == words

    def test_without_rivals_nothing_is_compared(self) -> None:
        said = evidence.range_paragraph(without("safeinstr", "bea"), self.RIVALS)
        assert said == (
            "**Not shown.** There is nothing to compare: safeinstr is not in this sweep; bea is not in this sweep."
        )

    def test_one_rival_with_a_gap_is_left_out_by_name(self) -> None:
        said = evidence.range_paragraph(without(gap=("safeinstr", RATIOS[1])), self.RIVALS)
        assert said.startswith("**Same direction.**")
        assert said.endswith("AsFT 3, BEA 0. Left out: SafeInstr has no result at p = 0.1.")

    def test_a_curve_with_a_gap_or_without_plain_fine_tuning(self) -> None:
        gap = evidence.monotone_paragraph(without(gap=("asft", RATIOS[2])), "asft", falls=True)
        assert gap == "**Not shown.** AsFT has no result at p = 0.2."
        assert evidence.monotone_paragraph(without("asft"), "asft", falls=True) == (
            "**Not shown.** asft is not in this sweep."
        )
        assert "(SFT missing; " in evidence.monotone_paragraph(without("sft"), "asft", falls=True)
        beside = evidence.monotone_paragraph(without("asft"), "asft_parallel", falls=False)
        assert "No AsFT to compare with: asft is not in this sweep." in beside

    def test_a_defence_or_its_rival_that_never_ran(self) -> None:
        assert evidence.defence_paragraph(without("asft")) == (
            "**Not shown.** asft is not in this sweep; safe_lora is not in this sweep."
        )
        trade = evidence.trade_paragraph(without("asft"), "bea", "asft")
        assert trade == "**Not shown.** asft is not in this sweep."
        assert evidence.ranking(without("sft")) == ""


def measured(rows: dict[str, list[float]], *, headline: str, interval: tuple[float, float, str] | None) -> MeasureTable:
    columns = tuple(Column(f"m{index}", f"m{index}") for index in range(len(next(iter(rows.values())))))
    spec = MeasureSpec("t", "t", "model", columns, {row: row for row in rows}, dict.fromkeys(rows, headline))
    return MeasureTable(
        spec,
        [
            MeasureRecord(
                f"{row}{k}", row, columns[k].value, 0, {headline: value}, interval if row == "random" else None, {}, 1.0
            )
            for row, values in rows.items()
            for k, value in enumerate(values)
        ],
    )


class TestMeasured:
    def test_cosines_above_the_random_range_contradict_orthogonality(self) -> None:
        rows = {"harmful": [0.1, 0.2], "benign": [0.3, 0.3], "random": [0.01, 0.01]}
        said = measure_evidence.cosine_paragraph(measured(rows, headline="abs_cos", interval=(0.0, 0.03, "95%")))
        assert said.startswith("**Contradicted.**")
        assert "2 of 2 harmful updates lie above that range" in said
        assert "Benign fine-tunes reach 0.3" in said

    def test_cosines_within_it_do_not(self) -> None:
        rows = {"harmful": [0.01, 0.02], "random": [0.01, 0.01]}
        said = measure_evidence.cosine_paragraph(measured(rows, headline="abs_cos", interval=(0.0, 0.03, "95%")))
        assert said.startswith("**Same direction.**")

    def test_lengths_are_counted_over_the_models(self) -> None:
        rows = {"alignment": [0.4, 0.5], "harmful": [0.1, 0.6], "benign": [0.5, 0.6], "random": [0.3, 0.9]}
        said = measure_evidence.length_paragraph(measured(rows, headline="epl", interval=None))
        assert said.startswith("**Not shown.**")
        assert "holds in 1 of 2 models" in said
        assert "than along a benign fine-tune's direction in 0 of 2" in said
        assert "than along random directions (their mean) in 1 of 2" in said

    def test_a_plane_is_read_along_its_axes(self) -> None:
        assert measure_evidence.plane_axes([[90, 50, 0], [0, 0, 0], [90, 70, 0]]) == (100.0, pytest.approx(100 / 3))
