"""The poison mixture: counts, nesting, and what happens when a pool is too small."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asft.config import AttackConfig
from asft.data.rows import Row, digest, poison

BENIGN = [Row(id=f"b/{i}", instruction=f"benign {i}", output="ok") for i in range(200)]
HARMFUL = [Row(id=f"h/{i}", instruction=f"harmful {i}", output="sure", harmful=True) for i in range(120)]


def mixture(p: float, n: int = 100, mix: str = "replace", seed: int = 0) -> list[Row]:
    return poison(BENIGN, HARMFUL, AttackConfig(source="harmful", p=p, n=n, mix=mix), seed)  # type: ignore[arg-type]


@given(p=st.floats(0, 1), n=st.integers(1, 100))
def test_counts(p: float, n: int) -> None:
    replaced, appended = mixture(p, n), mixture(p, n, "append")
    assert len(replaced) == n
    assert sum(row.harmful for row in replaced) == round(p * n)
    assert len(appended) == n + round(p * n)
    assert sum(not row.harmful for row in appended) == n


@given(low=st.floats(0, 1), high=st.floats(0, 1), seed=st.integers(0, 5))
def test_ratios_are_nested(low: float, high: float, seed: int) -> None:
    low, high = sorted((low, high))
    few, many = mixture(low, seed=seed), mixture(high, seed=seed)
    assert {row.id for row in few if row.harmful} <= {row.id for row in many if row.harmful}
    assert {row.id for row in many if not row.harmful} <= {row.id for row in few if not row.harmful}


def test_appending_keeps_the_benign_rows_and_the_seed_draws_others() -> None:
    assert [row for row in mixture(0.2, mix="append") if not row.harmful] == mixture(0.0)
    rows = mixture(0.1)
    assert digest(rows) == digest(mixture(0.1)) != digest(mixture(0.1, seed=1))
    assert digest(rows) != digest(rows[::-1])
    assert digest(rows) != digest([replace(row, harmful=False) for row in rows])


@pytest.mark.parametrize(
    ("p", "n", "part"),
    [(0.0, 201, "attack.n=201 .* 201 benign rows; the dataset has 200"), (1.0, 130, "has 120 to give")],
)
def test_a_pool_that_is_too_small_is_named(p: float, n: int, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        mixture(p, n)
