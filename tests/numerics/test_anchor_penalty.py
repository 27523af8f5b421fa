"""The penalty engine at the edges: narrow types, packed products, frozen and missing gradients, the scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from anchor_pairs import Stack, naive_penalty, surrogate, with_lora
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asft.anchor.anchor import Anchor
from asft.anchor.binding import LoraFactors, lora_factors
from asft.anchor.building import build_form
from asft.anchor.forms import AnchoredModule
from asft.anchor.penalty import SMALL_BYTES, FullPenalty, Penalty, products
from asft.anchor.projection import Update, _candidate
from asft.anchor.spec import AnchorSpec

LARGE = 1 + math.isqrt(SMALL_BYTES // 4)  # the side at which a dense float32 matrix no longer counts as small


def case(
    o: int, i: int, dtype: torch.dtype, rank: int = 4, spec: AnchorSpec | None = None
) -> tuple[Anchor, nn.Module, LoraFactors, Tensor]:
    """An anchor on one linear, its PEFT model in ``dtype``, the factors and V (float32)."""
    torch.manual_seed(3)
    model = with_lora(Stack(o, i), ["linears.0"], rank=rank).to(dtype)
    v = torch.randn(o, i) / (o * i) ** 0.25
    form, error = build_form(v, spec or AnchorSpec(), "m")
    anchor = Anchor([AnchoredModule("linears.0", o, i, float(v.norm()), form, error)])
    (factors,) = lora_factors(model)
    return anchor, model, factors, v


def reference(v: Tensor, factors: LoraFactors) -> tuple[Tensor, Tensor, float]:
    """Float64 gradients of the naive formula at the stored parameters, and its value."""
    b, a = (t.detach().double().requires_grad_() for t in (factors.b, factors.a))
    value = naive_penalty(surrogate(v.double()), b @ a)
    grad_b, grad_a = torch.autograd.grad(value, (b, a))
    return grad_b, grad_a, value.item()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((s, torch.bfloat16) for s in ((24, 24), (40, 12), (12, 40), (LARGE, LARGE))), ((512, 768), torch.float32)],
)
def test_parameters_are_summed_in_float32(shape: tuple[int, int], dtype: torch.dtype) -> None:
    anchor, model, factors, v = case(*shape, dtype)
    penalty = Penalty(anchor, model)
    grad_b, grad_a, value = reference(v, factors)
    penalty.add_gradients(1.0)
    assert penalty.norms().penalty == pytest.approx(value, rel=1e-5)
    for ours, exact in ((factors.b.grad, grad_b), (factors.a.grad, grad_a)):
        assert ours.dtype == dtype
        if dtype == torch.float32:
            assert float((ours.double() - exact).norm() / exact.norm()) < 1e-5
        else:  # One rounding to bf16, half a unit in the last place: relative 2⁻⁹ per element.
            assert torch.allclose(ours.double(), exact, rtol=2**-8, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("spec", [AnchorSpec(), AnchorSpec(form="factor"), AnchorSpec(form="rank_k", rank=200)])
@pytest.mark.parametrize("side", [16, LARGE])
def test_products_of_many_modules_equal_those_of_each(side: int, spec: AnchorSpec) -> None:
    """Small forms are stacked, large ones looped over, and large dense ones packed."""
    spec = replace(spec, rank=min(spec.rank, side - 1)) if spec.rank else spec
    forms = [build_form(torch.randn(side, side), spec, "m")[0] for _ in range(3)]
    x = torch.randn(3, 4, side)
    for apply, along in (products(forms, rows=4), products(forms, rows=9)):  # the row count is a hint
        for form, block, ours, part in zip(forms, x, apply(x), along(x), strict=True):
            scale = float(form.apply(block).abs().max())
            assert torch.allclose(ours, form.apply(block), rtol=1e-4, atol=1e-6 * scale)
            assert torch.allclose(part, form.along(block), rtol=1e-4, atol=1e-6 * scale)


def test_gradients_are_added_to_what_is_there_and_are_zero_where_b_is() -> None:
    """LoRA starts at B = 0: R and both gradients are 0 there."""
    anchor, model, factors, _ = case(10, 14, torch.float64)
    penalty = Penalty(anchor, model)
    penalty.add_gradients(1.0)
    once = factors.b.grad.clone()
    penalty.add_gradients(0.5)
    assert torch.allclose(factors.b.grad, 1.5 * once)
    model.zero_grad()
    with torch.no_grad():
        factors.b.zero_()
    penalty.add_gradients(1.0)
    assert penalty.norms().penalty == 0.0
    assert float(factors.a.grad.norm()) == float(factors.b.grad.norm()) == 0.0


PARTS = ["0.lora_A", "0.lora_B", "1.lora_A", "1.lora_B"]


@pytest.mark.parametrize("at_binding", [[], PARTS[:2], PARTS], ids=["none", "one module", "all"])
@pytest.mark.parametrize("frozen", [[], PARTS[:2], PARTS[2:], PARTS[::2], PARTS[:3], PARTS], ids="-".join)
def test_a_factor_gets_its_gradient_when_it_is_trained_now(at_binding: list[str], frozen: list[str]) -> None:
    """Whatever else is frozen, and whatever was when the penalty was bound."""
    torch.manual_seed(3)
    model = with_lora(Stack(10, 14, 2), ["linears.0", "linears.1"]).double()
    factors = {name: p for name, p in model.named_parameters() if "lora_" in name}
    form, _ = build_form(torch.randn(10, 14, dtype=torch.float64), AnchorSpec(), "m")
    anchor = Anchor([AnchoredModule(name, 10, 14, 1.0, form) for name in ("linears.0", "linears.1")])

    def freeze(parts: list[str]) -> None:
        for name, parameter in factors.items():
            parameter.requires_grad_(not any(part in name for part in parts))

    Penalty(anchor, model).add_gradients(0.5)
    expected = {name: parameter.grad for name, parameter in factors.items()}
    model.zero_grad()
    freeze(at_binding)
    penalty = Penalty(anchor, model)
    freeze(frozen)
    penalty.add_gradients(0.5)
    for name, parameter in factors.items():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, expected[name]), name
        else:
            assert parameter.grad is None, name


def test_effective_scale_penalises_the_update_the_model_sees() -> None:
    anchor, model, factors, v = case(10, 14, torch.float64)
    assert factors.scaling == 3.0
    raw, effective = Penalty(anchor, model), Penalty(anchor, model, scale="effective")
    c = surrogate(v.double())
    exact = naive_penalty(c, factors.scaling * factors.b @ factors.a).item()
    assert effective.norms().penalty == pytest.approx(exact, rel=1e-5)
    assert effective.norms().penalty == pytest.approx(9 * raw.norms().penalty)
    assert effective.norms().update == pytest.approx(3 * raw.norms().update)
    effective.add_gradients(1.0)
    assert factors.b.grad is not None
    of_effective = factors.b.grad.clone()
    factors.b.grad = None
    raw.add_gradients(9.0)
    assert torch.allclose(of_effective, factors.b.grad)


def test_no_intermediate_is_as_large_as_the_weight() -> None:
    """Peak memory of a step stays at multiples of (o + i)·r, far below o·i."""
    o = i = 1024
    anchor, model, _, _ = case(o, i, torch.float32, rank=4)
    penalty = Penalty(anchor, model)
    with torch.profiler.profile(profile_memory=True) as profile:
        penalty.add_gradients(1.0)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < o * i * 4 / 16


class WithoutDouble(TorchFunctionMode):
    """A device that has no float64 (MPS): numbers are on the CPU before they become wider."""

    def __init__(self) -> None:
        super().__init__()
        self.home: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func is not Tensor.double or any(args[0] is tensor for tensor in self.home)
        result = func(*args, **(kwargs or {}))
        if func is Tensor.cpu:
            self.home.append(result)
        return result


def test_a_device_needs_no_float64() -> None:
    anchor, model, factors, v = case(6, 8, torch.float32)
    full = FullPenalty(anchor, Stack(6, 8))
    with WithoutDouble():
        assert Penalty(anchor, model).norms().update > 0
        assert full.norms().update == 0
        assert _candidate(v, Update(factors.a.detach(), factors.b.detach())).norm_before > 0
