"""Intervals and tests against values worked out elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from report_cells import FA, analysis, cell, flagged, sound_cells
from scipy.stats import binomtest

from asft.metrics.base import wilson
from asft.report.records import MetricValue
from asft.report.statistics import (
    bootstrap_means,
    holm,
    interval_of,
    mcnemar,
    pair_by_seed,
    paired_p_over_columns,
    paired_test,
    student_t,
)


def test_wilson_interval() -> None:
    # centre (k + z²/2) / (n + z²), z = 1.959964
    ends = {(10, 250): (2.19, 7.21), (0, 200): (0.0, 1.88), (200, 200): (98.12, 100.0), (5, 10): (23.66, 76.34)}
    for counted, expected in ends.items():
        interval = wilson(*counted)
        assert (interval.lo, interval.hi) == pytest.approx(expected, abs=0.005)


def test_several_seeds_are_summarised_by_mean_range_and_t() -> None:
    # sd 2, t(0.975, 2) = 4.30265: half-width 4.96830; the lower end is cut at zero
    interval = student_t([2.0, 4.0, 6.0])
    assert (interval.lo, interval.hi) == (0.0, pytest.approx(8.96830, abs=1e-4))
    cells = [cell("asft", hs, 190, 0.1, seed=seed) for seed, hs in enumerate((10, 12, 14))]
    entry = next(entry for entry in analysis(cells).entries if (entry.row, entry.column) == ("asft", 0.1))
    assert (entry.ours, entry.minimum, entry.maximum, entry.seeds) == (12.0, 10.0, 14.0, 3)
    assert (entry.interval, entry.hi) == ("Student t over seeds", pytest.approx(16.96830, abs=1e-4))


def test_equal_seeds_do_not_claim_certainty() -> None:
    interval = interval_of([flagged(0)] * 3)
    assert interval is not None
    assert interval.hi == pytest.approx(wilson(0, 100).hi)
    assert "all seeds equal" in interval.kind


def test_graded_task_gets_a_bootstrap_interval_or_none() -> None:
    graded = {f"t{index}": 0.4 + 0.2 * (index % 2) for index in range(100)}
    interval = interval_of([MetricValue(FA, 50.0, 100, rows=graded)])
    assert interval is not None
    # standard error of the mean: 10 / sqrt(100) = 1 point
    assert (interval.lo, interval.hi) == pytest.approx((48.04, 51.96), abs=0.3)
    assert interval_of([MetricValue(FA, 50.0, 100)]) is None


def test_mcnemar_exact() -> None:
    # 9 prompts only the first flags, 1 only the second: 2 (C(10,0) + C(10,1)) / 2^10 = 0.021484375
    assert mcnemar(9, 1) == mcnemar(1, 9) == 0.021484375
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert mcnemar(1200, 1300) == pytest.approx(binomtest(1200, 2500).pvalue)


def test_bootstrap_has_the_spread_of_both_seeds_and_prompts() -> None:
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=(1, 400))
    one_seed = bootstrap_means(prompts)
    assert one_seed.mean() == pytest.approx(prompts.mean(), abs=0.005)
    assert one_seed.std() == pytest.approx(prompts.std() / 20, rel=0.05)
    constant_seeds = bootstrap_means(np.repeat([[0.0], [1.0]], 50, axis=1))
    # Two seeds at 0 and 1, no spread over prompts: means 0, 0.5, 1 with weights 1/4, 1/2, 1/4.
    assert constant_seeds.std() == pytest.approx(np.sqrt(0.125), rel=0.02)


def test_one_seed_of_verdicts_is_tested_with_mcnemar_several_with_the_bootstrap() -> None:
    def tested(*scores: int) -> Any:
        asft = [cell("asft", hs, 190, seed=seed) for seed, hs in enumerate(scores)]
        sft = [cell("sft", 40, 190, seed=seed) for seed in range(3)]
        found = paired_test(pair_by_seed(asft, sft, "HS"))
        assert found is not None
        return found

    one, several = tested(10), tested(10, 10, 10)
    assert (one.test, one.difference, one.n, one.seeds) == ("McNemar exact", pytest.approx(-30.0), 100, 1)
    assert one.p_value == pytest.approx(2 * 0.5**30)
    assert (several.test, several.difference, several.seeds) == ("paired bootstrap", pytest.approx(-30.0), 3)
    assert several.p_value < 0.001
    assert tested(5, 5, 75).p_value > 0.05, "a difference that one seed contradicts does not hold"


def test_records_without_a_common_seed_or_prompt_are_not_compared() -> None:
    assert pair_by_seed([cell("sft", 1, 1, seed=0)], [cell("asft", 1, 1, seed=1)], "HS") == []
    assert pair_by_seed([cell("sft", 1, 1)], [cell("asft", 1, 1, metrics={})], "HS") == []
    assert paired_test([]) is None
    assert paired_test([({"one": 1.0}, {"another": 1.0})]) is None
    assert paired_p_over_columns([[({"one": 1.0}, {"one": 0.0})], [({"two": 1.0}, {"two": 0.0})]]) is None


def test_holm_steps_down_and_stays_monotone() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_differences_that_hold_are_corrected_over_the_table() -> None:
    table = analysis(sound_cells())
    assert len(table.comparisons) == 18, "three pairs of methods, three columns, two metrics"
    pairs = {(item.method, item.reference) for item in table.comparisons}
    assert pairs == {("safe_lora", "sft"), ("asft", "sft"), ("safe_lora", "asft")}
    assert all(item.p_holm >= item.result.p_value for item in table.comparisons)
    sft = [item for item in table.holding if item.metric.name == "HS" and item.reference == "sft"]
    held = {(item.method, item.column) for item in sft}
    assert held == {(method, column) for method in ("safe_lora", "asft") for column in ("p = 0.1", "p = 0.2")}
    assert all(item.better for item in sft)
    assert not any(item.better for item in table.holding if item.metric.name == "FA" and item.method == "safe_lora")
