"""AsFT_Alt: harmful directions from a harmful adapter, penalised along."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from anchor_pairs import TARGETS, naive_penalty, surrogate, with_lora
from peft import PeftModel
from transformers import AutoModelForCausalLM

from asft import Anchor
from asft.anchor.binding import lora_factors
from asft.anchor.penalty import Penalty


def adapter(pair: Path, seed: int, **settings: object) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(pair / "aligned")
    torch.manual_seed(seed)
    return with_lora(model, TARGETS["llama"], **settings)


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 5}, "rank_pattern": {"v_proj": 2}}]
)
def test_both_surrogates_equal_their_dense_definition(pair: Path, settings: dict[str, object]) -> None:
    harmful = adapter(pair, 1, **settings)
    harmful.save_pretrained(pair / "harmful")
    model = adapter(pair, 2).double()
    for kind in ("projector", "normalised"):
        penalty = Penalty(Anchor.from_adapter(pair / "harmful", surrogate=kind), model)
        total = torch.zeros((), dtype=torch.float64)
        for h, f in zip(lora_factors(harmful), lora_factors(model), strict=True):
            delta = (h.scaling * h.b @ h.a).detach().double()
            dense = delta @ torch.linalg.pinv(delta, rtol=1e-5) if kind == "projector" else surrogate(delta)
            total = total + naive_penalty(dense, f.b @ f.a, "along")
        assert penalty.norms().penalty == pytest.approx(total.item(), rel=1e-5)
        parameters = [p for f in lora_factors(model) for p in (f.a, f.b)]
        expected = torch.autograd.grad(total, parameters)
        penalty.add_gradients(1.0)
        for parameter, gradient in zip(parameters, expected, strict=True):
            assert float((parameter.grad - gradient).norm() / gradient.norm()) < 1e-5
            parameter.grad = None


def test_range_of_the_projector_is_the_column_space_of_the_harmful_update(pair: Path) -> None:
    harmful = adapter(pair, 1)
    harmful.save_pretrained(pair / "harmful")
    anchor = Anchor.from_adapter(pair / "harmful")
    for f in lora_factors(harmful):
        form = anchor[f.name].form
        update = (f.scaling * f.b @ f.a).detach()
        assert torch.allclose(form.along(update.T).T, update, atol=1e-5)
        assert float(form.apply(form.along(update.T)).norm()) == pytest.approx(float(update.norm()), rel=1e-5)
        assert len(form.eigenvalues()) == 4


def test_rank_deficient_update_keeps_only_its_directions_and_one_of_zero_is_refused(pair: Path) -> None:
    """If A has lost rank, the range of BA is smaller than that of B."""
    harmful = adapter(pair, 1)
    with torch.no_grad():
        for f in lora_factors(harmful):
            f.a[1:] = f.a[:1]
    harmful.save_pretrained(pair / "harmful")
    for module in Anchor.from_adapter(pair / "harmful").values():
        assert len(module.form.eigenvalues()) == 1
    with pytest.raises(ValueError, match=r"surrogate='exact' is unknown; allowed: projector, normalised"):
        Anchor.from_adapter(pair / "harmful", surrogate="exact")
    with torch.no_grad():
        lora_factors(harmful)[1].b.zero_()
    harmful.save_pretrained(pair / "harmful")
    with pytest.raises(ValueError, match=r"'model.layers.0.self_attn.v_proj' is zero, so it has no direction"):
        Anchor.from_adapter(pair / "harmful")
    with pytest.raises(ValueError, match=r"has no adapter_config.json"):
        Anchor.from_adapter(pair / "aligned")
