"""Every form and variant equals its dense definition in float64, values and gradients."""

from __future__ import annotations

import pytest
import torch
from anchor_pairs import Stack, naive_penalty, surrogate, with_lora
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asft.anchor.anchor import Anchor
from asft.anchor.binding import lora_factors
from asft.anchor.building import build_form, left_spectrum
from asft.anchor.forms import AnchoredModule
from asft.anchor.penalty import Penalty
from asft.anchor.spec import AnchorSpec

TOLERANCE = 1e-6
sides = st.integers(2, 48)
ranks = st.integers(1, 64)
seeds = st.integers(0, 10_000)
SPECS = [
    AnchorSpec(),
    AnchorSpec(form="gram"),
    AnchorSpec(form="factor"),
    AnchorSpec("parallel", form="gram"),
    AnchorSpec("parallel", form="factor"),
    AnchorSpec("random"),
    AnchorSpec("identity"),
    AnchorSpec(form="rank_k", rank=1),
    AnchorSpec("parallel", form="rank_k", rank=1),
    AnchorSpec("random", form="rank_k", rank=1),
    AnchorSpec("projector", rank=1),
]


def dense_direction(v: Tensor, spec: AnchorSpec, name: str) -> Tensor:
    """Ĉ of a variant as a dense matrix, from the definition wherever it has one."""
    if spec.variant == "identity":
        return torch.zeros(len(v), len(v), dtype=v.dtype)
    if spec.variant == "random":  # by its own definition: the form's directions are random
        form, _ = build_form(v, spec, name)
        return form.along(torch.eye(len(v), dtype=v.dtype))
    if not spec.needs_rank:
        return surrogate(v)
    u, sigma, _ = torch.linalg.svd(v, full_matrices=False)
    s = sigma.square() / torch.linalg.matrix_norm(v)
    weights = torch.ones_like(s) if spec.variant == "projector" else s
    return (u[:, : spec.rank] * weights[: spec.rank]) @ u[:, : spec.rank].T


def bound(
    o: int, i: int, r: int, seed: int, spec: AnchorSpec, count: int = 2
) -> tuple[Penalty, list[Tensor], nn.Module]:
    torch.manual_seed(seed)
    names = [f"linears.{k}" for k in range(count)]
    model = with_lora(Stack(o, i, count).double(), names, rank=r).double()
    vs = [torch.randn(o, i, dtype=torch.float64) for _ in range(count)]
    modules = [
        AnchoredModule(name, o, i, float(torch.linalg.matrix_norm(v)), *build_form(v, spec, name))
        for name, v in zip(names, vs, strict=True)
    ]
    return Penalty(Anchor(modules), model), vs, model


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-300))


@settings(max_examples=25, deadline=None)
@given(o=sides, i=sides, r=ranks, seed=seeds, spec=st.sampled_from(SPECS), lam=st.floats(0.01, 100))
def test_penalty_and_gradients_equal_the_dense_formula(
    o: int, i: int, r: int, seed: int, spec: AnchorSpec, lam: float
) -> None:
    penalty, vs, model = bound(o, i, r, seed, spec)
    factors = lora_factors(model)
    naive = sum(
        (
            naive_penalty(dense_direction(v, spec, f.name), f.b @ f.a, spec.side)
            for v, f in zip(vs, factors, strict=True)
        ),
        start=torch.zeros((), dtype=torch.float64),
    )
    parameters = [p for f in factors for p in (f.a, f.b)]
    expected = torch.autograd.grad(lam * naive, parameters)
    penalty.add_gradients(lam)
    assert penalty.norms().penalty == pytest.approx(naive.item(), rel=TOLERANCE)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        assert relative(parameter.grad, gradient) <= TOLERANCE


@settings(max_examples=20, deadline=None)
@given(o=sides, i=sides, seed=seeds, spec=st.sampled_from(SPECS))
def test_logged_norms_are_those_of_the_dense_matrices(o: int, i: int, seed: int, spec: AnchorSpec) -> None:
    penalty, vs, model = bound(o, i, 3, seed, spec)
    updates = [(dense_direction(v, spec, f.name), f.b @ f.a) for v, f in zip(vs, lora_factors(model), strict=True)]
    norms = penalty.norms()
    along = sum(float((c @ ba).square().sum()) for c, ba in updates) ** 0.5
    orthogonal = sum(float((ba - c @ ba).square().sum()) for c, ba in updates) ** 0.5
    assert norms.update == pytest.approx(sum(float(ba.square().sum()) for _, ba in updates) ** 0.5, rel=TOLERANCE)
    assert norms.along == pytest.approx(along, rel=TOLERANCE, abs=1e-12)
    assert norms.orthogonal == pytest.approx(orthogonal, rel=TOLERANCE)


def test_gradient_agrees_with_finite_differences() -> None:
    penalty, _, model = bound(12, 7, 3, 0, AnchorSpec())
    parameters = [p for f in lora_factors(model) for p in (f.a, f.b)]
    penalty.add_gradients(1.0)
    step = 1e-6
    for parameter in parameters:
        assert parameter.grad is not None
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
                values.append(penalty.norms().penalty)
                parameter.sub_(direction, alpha=sign * step)
        slope = float((parameter.grad * direction).sum())
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(o=st.integers(3, 40), i=st.integers(3, 40), k=st.integers(1, 39), seed=seeds)
def test_rank_k_keeps_its_bound(o: int, i: int, k: int, seed: int) -> None:
    k = min(k, min(o, i) - 1)
    torch.manual_seed(seed)
    v = torch.randn(o, i, dtype=torch.float64)
    form, error = build_form(v, AnchorSpec(form="rank_k", rank=k), "m")
    eye = torch.eye(o, dtype=torch.float64)
    c, kept = surrogate(v), form.along(eye)
    # Eckart–Young: no rank-k matrix is closer, and the bound is attained.
    assert float(torch.linalg.matrix_norm(c - kept, ord=2)) == pytest.approx(error, rel=1e-8)
    # What the bound says about the penalty: |R − R_k| ≤ (2ε + ε²)‖BA‖².
    ba = torch.randn(o, i, dtype=torch.float64)
    exact, ours = naive_penalty(c, ba), (form.apply(ba.T) * ba.T).sum()
    assert abs(float(exact - ours)) <= (2 * error + error**2) * float(ba.square().sum()) * (1 + 1e-9)


@settings(max_examples=15, deadline=None)
@given(o=st.integers(3, 40), i=st.integers(3, 40), seed=seeds)
def test_random_anchor_has_the_same_spectrum_and_other_directions(o: int, i: int, seed: int) -> None:
    torch.manual_seed(seed)
    v = torch.randn(o, i, dtype=torch.float64)
    spec = AnchorSpec("random", seed=seed)
    form, _ = build_form(v, spec, "m")
    count = min(o, i)
    assert torch.allclose(form.eigenvalues()[:count], left_spectrum(v)[1], rtol=1e-8, atol=1e-10)
    eye = torch.eye(o, dtype=torch.float64)
    assert float((form.along(eye) - surrogate(v)).norm()) > 1e-3 * float(surrogate(v).norm())
    again, _ = build_form(v, spec, "m")
    other, _ = build_form(v, spec, "another module")
    assert torch.equal(form.along(eye), again.along(eye))
    assert not torch.allclose(form.along(eye), other.along(eye))


def test_random_directions_are_uniform() -> None:
    """Over many seeds the mean of the top direction's projector is I/o, as Haar measure has it."""
    v = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tops = []
    for seed in range(3000):
        form, _ = build_form(v, AnchorSpec("random", form="rank_k", rank=1, seed=seed), "m")
        u = form.tensors()["u"]
        tops.append(u @ u.T)
    mean = torch.stack(tops).mean(0)
    assert torch.allclose(mean, torch.eye(4, dtype=torch.float64) / 4, atol=0.02)


def test_full_rank_projector_of_a_wide_matrix_would_penalise_nothing() -> None:
    """Why the paper's Eq. 3 is not what runs: for o ≤ i the projector onto the range of V is I."""
    v = torch.randn(8, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u, _ = left_spectrum(v)
    ba = torch.randn(8, 20, dtype=torch.float64)
    assert float(naive_penalty(u @ u.T, ba)) < 1e-24 * float(ba.square().sum())
    form, _ = build_form(v, AnchorSpec("projector", rank=7), "m")
    assert float((form.apply(ba.T) * ba.T).sum()) > 0
