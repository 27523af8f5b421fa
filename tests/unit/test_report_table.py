"""Records, their arrangement, the paper's figures beside them, and what counts as best."""

from __future__ import annotations

import pytest
from report_cells import FA, HS, RATIOS, analysis, cell, flagged, sound_cells, table_spec

from asft.metrics.base import Interval, wilson
from asft.report.records import Column, Metric, MetricValue, Result
from asft.report.table import Entry, Table, paper_tables, paper_value
from asft.report.writers.markdown import render_markdown


def entries_by_place(cells: list[Result], **changes: object) -> dict[tuple[str, str, str], Entry]:
    entries = analysis(cells, **changes).entries
    return {(entry.metric.name, entry.row, entry.column_label): entry for entry in entries}


@pytest.mark.parametrize(("metric", "value"), [(HS, 101), (HS, -1), (FA, 100.5), (FA, float("nan"))])
def test_impossible_numbers_are_refused(metric: Metric, value: float) -> None:
    with pytest.raises(ValueError, match=f"{metric.name}="):
        MetricValue(metric, value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("table2", "HS", "asft", 0.1), 4.0),
        (("table2", "FA", "lisa_base", 0), 75.7),
        (("table2", "HS", "sft", 0.0), 2.4),
        (("table4", "HS", "bea", "harmbench"), 14.0),
        (("table8", "FA", "asft_alt", 2500), 85.8),
        (("table2", "HS", "l2", 0.1), None),
        (("table2", "HS", "asft", 0.3), None),
        (("table2", "EPL", "asft", 0.1), None),
        (("table1", "abs_cos", "harmful", 50), 5.96e-4),
        (("table1", "abs_cos", "random", 500), 8.489e-3),
        (("table1", "abs_cos", "benign", 50), None),
        (("table7", "epl", "harmful", "gemma2_9b"), 0.0046),
        (("table7", "epl", "harmful", "elsewhere"), None),
        (("table9", "HS", "asft", 0.1), None),
        (("notes", "HS", "asft", 0.1), None),
        ((None, "HS", "asft", 0.1), None),
    ],
)
def test_paper_value(place: tuple[str, str, str, float], value: float | None) -> None:
    assert paper_value(*place) == value


def test_every_row_of_the_paper_is_as_long_as_its_axis() -> None:
    metrics = {"HS", "FA", "abs_cos", "epl"}
    tables = {name: table for name, table in paper_tables().items() if name.startswith("table")}
    assert len(tables) == 8
    for name, table in tables.items():
        shown = metrics & table.keys()
        lengths = {len(values) for metric in shown for values in table[metric].values()}
        assert lengths == {len(table["axis"]["values"])}, name


def test_entry_holds_ours_the_paper_and_the_distance() -> None:
    entry = entries_by_place(sound_cells())["HS", "asft", "p = 0.1"]
    assert (entry.ours, entry.paper, entry.n, entry.seeds, entry.status) == (4.0, 4.0, 100, 1, "done")
    assert entry.delta == 0.0
    assert entry.better_than_paper is None
    sft = entries_by_place(sound_cells())["HS", "sft", "p = 0.2"]
    assert sft.delta == pytest.approx(90 - 46.8)
    assert sft.better_than_paper is False


def test_columns_may_go_by_another_name_in_the_paper() -> None:
    columns = (Column("tiny_llama", "tiny Llama", paper="llama2_7b"), Column("own", "own model"))
    cells: list[Result] = [cell("asft", 4, 150, "tiny_llama")]
    places = entries_by_place(cells, column_axis="model", columns=columns, paper_table="table6")
    assert places["FA", "asft", "tiny Llama"].paper == 84.3
    assert places["FA", "asft", "own model"].paper is None


def test_best_is_among_defences_only_and_ties_share_it() -> None:
    cells = [item for item in sound_cells() if item.column != 0]
    cells += [cell("sft", 0, 200, 0.0), cell("safe_lora", 1, 150, 0.0), cell("asft", 1, 160, 0.0)]
    places = entries_by_place(cells)
    best = {place for place, entry in places.items() if entry.best and place[2] == "p = 0"}
    # SFT and the aligned model score better than either, but defend nothing.
    assert best == {("HS", "safe_lora", "p = 0"), ("HS", "asft", "p = 0"), ("FA", "asft", "p = 0")}
    aligned = places["HS", "aligned", "all"]
    assert (aligned.ours, aligned.control, aligned.paper, aligned.best) == (1.0, True, None, False)
    declared = entries_by_place(sound_cells(), controls=("base", "aligned", "asft"))
    assert not any(entry.best for (_, row, _), entry in declared.items() if row == "asft")
    assert declared["HS", "safe_lora", "p = 0.1"].best


def test_means_of_the_same_scores_in_another_order_are_ties() -> None:
    orders = {"asft": (1, 2, 4), "safe_lora": (4, 2, 1)}
    cells = [
        cell(row, 0, 150, 0.0, seed=seed, metrics={"HS": flagged(count, of=30)})
        for row, counts in orders.items()
        for seed, count in enumerate(counts)
    ]
    first, second = (entries_by_place(cells)["HS", row, "p = 0"] for row in orders)
    assert first.ours != second.ours
    assert first.best
    assert second.best


def test_missing_failed_and_partial_places() -> None:
    cells = [item for item in sound_cells(seeds=(0, 1)) if item.row != "asft"]
    cells += [
        cell("asft", 1, 188, 0.0, seed=0),
        Result("a", "asft", 0.0, 1, "missing"),
        Result("b", "asft", 0.1, 0, "failed", "out of memory"),
        Result("c", "asft", 0.1, 1, "missing"),
    ]
    places = entries_by_place(cells)
    partial, failed, unknown = (places["HS", "asft", f"p = {ratio:g}"] for ratio in RATIOS)
    assert (partial.status, partial.ours, partial.seeds, partial.seeds_missing) == ("partial", 1.0, 1, 1)
    assert not partial.best, "the others have more seeds"
    assert (failed.status, failed.ours, failed.paper, failed.reason) == ("failed", None, 4.0, "out of memory")
    assert (unknown.status, unknown.ours) == ("missing", None)
    assert analysis(cells).gaps == (
        "1 of 2 seeds: AsFT, p = 0",
        "failed (out of memory): AsFT, p = 0.1",
        "missing: AsFT, p = 0.2",
    )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([cell("vaccine", 1, 1, 0.1)], r"row 'vaccine' .*allowed: \['base', 'aligned', 'sft'"),
        ([cell("asft", 1, 1, 0.3)], r"attack.p=0.3 .*allowed: \[0.0, 0.1, 0.2\]"),
        ([cell("asft", 1, 1, 0.1), cell("asft", 2, 1, 0.1)], "row asft, p = 0.1, seed 0; the table has one place"),
        ([cell("asft", 1, 1, 0.1), cell("asft", 2, 1)], "cells for all columns and for"),
    ],
)
def test_cells_without_a_place_are_refused(cells: list[Result], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(table_spec(), cells)


def test_spec_refuses_double_columns() -> None:
    with pytest.raises(ValueError, match="columns="):
        table_spec(columns=(Column(0.1, "a"), Column(0.1, "b")))
    with pytest.raises(ValueError, match="column labels="):
        table_spec(columns=(Column(0.1, "a"), Column(0.2, "a")))


def test_a_third_metric_is_shown_by_what_comes_with_it() -> None:
    refusals = Metric("OR", "over-refusal", True, "%", 1, "the share of harmless prompts refused.")
    length = Metric("EPL", "safe length")

    def measured(row: str, refused: int, column: float) -> Result:
        value = MetricValue(length, refused / 1e5, interval=Interval(0.0, 0.5, "its own"))
        metrics = {"HS": flagged(5), "OR": MetricValue(refusals, refused, 100, wilson(refused, 100)), "EPL": value}
        return cell(row, 5, 190, column, metrics=metrics)

    table = analysis([measured(row, 10 + len(row), ratio) for row in ("sft", "asft") for ratio in RATIOS])
    assert list(table.metrics) == ["HS", "OR", "EPL"]
    places = {(entry.metric.name, entry.row): entry for entry in table.entries if entry.column == 0.1}
    assert places["OR", "asft"].best, "the only defence"
    assert not places["EPL", "asft"].best, "no good direction"
    assert (places["OR", "asft"].text, places["OR", "asft"].range_text) == ("14.0", "8.5–22.1")
    assert (places["EPL", "asft"].text, places["EPL", "asft"].range_text) == ("1.40e-04", "0–0.5")
    written = render_markdown(table)
    assert "## OR, over-refusal in % (lower is better)" in written
    assert "- OR: the share of harmless prompts refused." in written
    assert "## EPL, safe length\n" in written


def test_a_row_stands_in_the_tables_of_its_own_metrics_alone() -> None:
    share, length = Metric("share"), Metric("length")
    cells: list[Result] = [cell("sft", 0, 0, metrics={"share": MetricValue(share, 0.5)})]
    cells += [cell("asft", 0, 0, 0.1, metrics={"length": MetricValue(length, 2.0)})]
    cells += [Result("k", "safe_lora", 0.1, 0, "failed", "no memory", awaited=("length",))]
    table = analysis(cells, metrics=("share", "length"), controls=(), undefended=None, compare_to=())
    rows = {name: [line[0].row for line in table.lines(name)] for name in table.metrics}
    assert rows == {"share": ["base", "aligned", "sft"], "length": ["base", "aligned", "safe_lora", "asft"]}
    assert table.health is None
    assert "failed (no memory): Safe LoRA, p = 0.1" in table.gaps
