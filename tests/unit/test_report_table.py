"""Records, their arrangement, the paper's figures beside them, and what counts as best."""

from __future__ import annotations

import pandas as pd
import pytest
from report_cells import RATIOS, cell, sound_cells, table_spec

from asft.report.analysis import analyse
from asft.report.frame import Entry, long_frame, table_entries, wide_frame
from asft.report.grid import Grid
from asft.report.paper import paper_tables, paper_value
from asft.report.records import Cell, Column, MissingCell


def entries_by_place(cells: list[Cell], **changes: object) -> dict[tuple[str, str, str], Entry]:
    entries = table_entries(Grid(table_spec(**changes), cells))
    return {(entry.metric, entry.row, entry.column_label): entry for entry in entries}


@pytest.mark.parametrize(
    "changes",
    [
        {"hs_flagged": 101},
        {"hs_total": 0, "hs_flagged": 0},
        {"fa_score": 100.5},
        {"fa_score": float("nan")},
        {"fa_total": 0},
        {"fa_correct": 201},
    ],
)
def test_impossible_counts_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cell k: "):
        cell("asft", 1, 1, key="k", **changes)


def test_scores_are_percent() -> None:
    record = cell("asft", 4, 150)
    assert (record.hs, record.fa) == (4.0, 75.0)


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
        (("table9", "HS", "asft", 0.1), None),
        (("notes", "HS", "asft", 0.1), None),
        ((None, "HS", "asft", 0.1), None),
    ],
)
def test_paper_value(place: tuple[str, str, str, float], value: float | None) -> None:
    assert paper_value(*place) == value


def test_every_row_of_the_paper_is_as_long_as_its_axis() -> None:
    for name, table in paper_tables().items():
        if name.startswith("table") and "HS" in table:
            for metric in ("HS", "FA"):
                lengths = {method: len(values) for method, values in table[metric].items()}
                assert set(lengths.values()) == {len(table["axis"]["values"])}, (name, metric, lengths)


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
    cells: list[Cell] = [cell("asft", 4, 150, axis={"model": "tiny_llama"})]
    places = entries_by_place(cells, column_axis="model", columns=columns, paper_table="table6")
    assert places["FA", "asft", "tiny Llama"].paper == 84.3
    assert places["FA", "asft", "own model"].paper is None


def test_best_is_among_defences_only_and_ties_share_it() -> None:
    cells = [item for item in sound_cells() if item.axis.get("attack.p") != 0]
    cells += [cell("sft", 0, 200, p=0.0), cell("safe_lora", 1, 150, p=0.0), cell("asft", 1, 160, p=0.0)]
    places = entries_by_place(cells)
    best = {place for place, entry in places.items() if entry.best and place[2] == "p = 0"}
    # SFT and the aligned model score better than either, but defend nothing.
    assert best == {("HS", "safe_lora", "p = 0"), ("HS", "asft", "p = 0"), ("FA", "asft", "p = 0")}


def test_declared_controls_do_not_compete() -> None:
    cells = sound_cells()
    places = entries_by_place(cells, controls=("base", "aligned", "asft"))
    assert not any(entry.best for (_, row, _), entry in places.items() if row == "asft")
    assert places["HS", "safe_lora", "p = 0.1"].best


def test_untouched_models_span_the_columns() -> None:
    entry = entries_by_place(sound_cells())["HS", "aligned", "all"]
    assert (entry.ours, entry.control, entry.paper, entry.best) == (1.0, True, None, False)


def test_missing_failed_and_partial_places() -> None:
    cells = [item for item in sound_cells(seeds=(0, 1)) if item.method != "asft"]
    cells += [
        cell("asft", 1, 188, p=0.0, seed=0),
        MissingCell("a", "asft", {"attack.p": 0.0}, 1, "missing"),
        MissingCell("b", "asft", {"attack.p": 0.1}, 0, "failed", "out of memory"),
        MissingCell("c", "asft", {"attack.p": 0.1}, 1, "missing"),
    ]
    places = entries_by_place(cells)
    partial, failed, unknown = (places["HS", "asft", f"p = {ratio:g}"] for ratio in RATIOS)
    assert (partial.status, partial.ours, partial.seeds, partial.seeds_missing) == ("partial", 1.0, 1, 1)
    assert (failed.status, failed.ours, failed.paper, failed.reason) == ("failed", None, 4.0, "out of memory")
    assert (unknown.status, unknown.ours) == ("missing", None)
    assert analyse(table_spec(), cells).gaps == (
        "AsFT, p = 0: 1 of 2 seeds",
        "AsFT, p = 0.1: failed (out of memory)",
        "AsFT, p = 0.2: missing",
    )


def test_rows_may_be_an_axis_instead_of_a_method() -> None:
    spec = table_spec(row_axis="method.lam", methods={"sft": "SFT", "1": "λ = 1", "10": "λ = 10"})
    cells = [cell("asft", 5, 180, axis={"method.lam": lam, "attack.p": 0.1}) for lam in (1, 10)]
    grid = Grid(spec, [*cells, cell("sft", 60, 190, p=0.1)])
    assert [grid.row(record) for record in grid.records] == ["sft", "1", "10"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([cell("vaccine", 1, 1, p=0.1)], r"row 'vaccine' .*allowed: \['base', 'aligned', 'sft'"),
        ([cell("asft", 1, 1, p=0.3)], r"attack.p=0.3 .*allowed: \[0.0, 0.1, 0.2\]"),
        ([cell("asft", 1, 1, p=0.1), cell("asft", 2, 1, p=0.1)], "one place for them"),
        ([cell("asft", 1, 1, p=0.1), cell("asft", 2, 1)], "cells for all columns and for"),
    ],
)
def test_cells_without_a_place_are_refused(cells: list[Cell], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(table_spec(), cells)


def test_spec_refuses_unknown_metrics_and_double_columns() -> None:
    with pytest.raises(ValueError, match=r"metrics=\['EPL'\]; allowed: \['HS', 'FA'\]"):
        table_spec(metrics=("EPL",))
    with pytest.raises(ValueError, match="columns="):
        table_spec(columns=(Column(0.1, "a"), Column(0.1, "b")))
    with pytest.raises(ValueError, match="column labels="):
        table_spec(columns=(Column(0.1, "a"), Column(0.2, "a")))


def test_frames_are_long_and_wide() -> None:
    entries = table_entries(Grid(table_spec(), sound_cells()))
    frame = long_frame(entries)
    # two metrics: two spanning controls and three methods in three columns
    assert len(frame) == 2 * (2 + 3 * 3)
    wide = wide_frame(entries)
    assert list(wide.index) == ["base model", "aligned model", "SFT", "Safe LoRA", "AsFT"]
    assert wide.loc["AsFT", ("HS", "p = 0.2")] == 6.0
    assert pd.isna(wide.loc["AsFT", ("HS", "all")])
