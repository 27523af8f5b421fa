"""The spectrum answers whether AsFT is more than weight decay on BA."""

from __future__ import annotations

import json
import math

import pytest
import torch

from asft import Anchor
from asft.anchor.building import build_form
from asft.anchor.forms import AnchoredModule
from asft.anchor.spec import AnchorSpec
from asft.anchor.spectrum import as_plain, inspect, summary
from asft.report import charts


def anchor_with(singular_values: list[float], o: int = 10, i: int = 12, **spec: object) -> Anchor:
    """One module whose V has the given singular values."""
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(o, o, dtype=torch.float64))
    w, _ = torch.linalg.qr(torch.randn(i, i, dtype=torch.float64))
    k = len(singular_values)
    v = u[:, :k] @ torch.diag(torch.tensor(singular_values, dtype=torch.float64)) @ w[:, :k].T
    form, bound = build_form(v, AnchorSpec(**spec), "m")
    return Anchor([AnchoredModule("m", o, i, float(v.norm()), form, bound)])


@pytest.mark.parametrize("form", ["gram", "factor"])
def test_numbers_are_those_of_the_eigenvalues(form: str) -> None:
    sigma = [3.0, 1.0, 0.5]
    (spectrum,) = inspect(anchor_with(sigma, form=form))
    norm = math.sqrt(sum(value**2 for value in sigma))
    s = [value**2 / norm for value in sigma]
    assert spectrum.norm == pytest.approx(norm)
    assert spectrum.eigenvalues[:3] == pytest.approx(s)
    assert spectrum.trace == pytest.approx(norm)
    assert spectrum.spectral_distance == pytest.approx(s[0])
    assert spectrum.mean_distance == pytest.approx(math.sqrt(sum(x**2 for x in s) / 10))
    assert spectrum.stable_rank == pytest.approx(sum(x**2 for x in s) / s[0] ** 2)
    shares = [x / sum(s) for x in s]
    assert spectrum.entropy_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-6)
    assert spectrum.mean_decay == pytest.approx((7 + sum((1 - x) ** 2 for x in s)) / 10)
    assert (spectrum.noticeable, spectrum.half) == (sum(x > 0.1 for x in s), sum(x > 0.5 for x in s))


@pytest.mark.parametrize(
    ("sigma", "verdict", "all_modules"),
    [
        ([0.05], "No: the largest eigenvalue is 0.050", "No: the largest eigenvalue of any module is 0.050"),
        ([0.3], "Slightly: 1 of 10", "In part: "),
        ([0.8, 0.1], "In 1 of 10", "In part: 1 of 1 modules have an eigenvalue above 0.1"),
        ([2.5], "largest 2.50, above 2 and so penalised more", "In part: "),
    ],
)
def test_verdict(sigma: list[float], verdict: str, all_modules: str) -> None:
    spectra = inspect(anchor_with(sigma))
    assert verdict in spectra[0].verdict
    assert spectra[0].verdict.endswith(".")
    assert "\n" not in spectra[0].verdict
    assert summary(spectra).startswith(all_modules)


def test_control_and_truncation() -> None:
    (control,) = inspect(anchor_with([1.0, 0.5], variant="identity"))
    assert (control.trace, control.spectral_distance, control.entropy_rank, control.mean_decay) == (0, 0, 0, 1)
    assert control.verdict.startswith("No")
    (truncated,) = inspect(anchor_with([2.0, 1.0, 0.5], form="rank_k", rank=1))
    norm = math.sqrt(5.25)
    assert truncated.eigenvalues == pytest.approx((4 / norm,))
    assert truncated.error_bound == pytest.approx(1 / norm)


def test_json_and_figure() -> None:
    spectra = inspect(anchor_with([1.0, 0.5]))
    written = json.loads(json.dumps(as_plain(spectra)))
    (module,) = written["modules"]
    assert (module["name"], module["verdict"]) == ("m", spectra[0].verdict)
    assert written["summary"] == summary(spectra)
    rows = charts.eigenvalues(written["modules"])
    assert [(row["rank"], row["value"]) for row in rows] == list(enumerate(module["eigenvalues"], start=1))
