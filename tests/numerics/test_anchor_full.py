"""Full-parameter AsFT: ∇_W R = 2λGΔW through a real Trainer step, W(0) the weights at its start (float64)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from anchor_pairs import TARGETS, naive_penalty, save_pair, surrogate, with_lora
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from asft import Anchor, FullAsFTCallback
from asft.anchor.difference import CheckpointPair
from asft.anchor.penalty import FullPenalty

LAM = 0.3


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The model after some training, stood in for by noise."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def naive(
    pair: Path, kind: str, model: PreTrainedModel, start: dict[str, Tensor], variant: str = "asft"
) -> dict[str, Tensor | None]:
    """R by the definition, and its gradients by parameter name as autograd has them."""
    source = CheckpointPair(pair / "base", pair / "aligned", TARGETS[kind])
    total = torch.zeros((), dtype=torch.float64)
    for name, module in source.modules.items():
        change = model.get_submodule(name).weight - start[f"{name}.weight"]
        c = surrogate(source.difference(name)) * (0.0 if variant == "identity" else 1.0)
        side = "along" if variant == "parallel" else "orthogonal"
        total = total + naive_penalty(c, change.T if module.transposed else change, side)
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {"": total, **dict(zip(named, gradients, strict=True))}


@pytest.mark.parametrize("variant", ["asft", "parallel", "identity"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradient_equals_autograd_of_the_definition(kind: str, variant: str, tmp_path: Path) -> None:
    model = save_pair(tmp_path, kind, torch.float64)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    anchor = Anchor.build(tmp_path / "base", tmp_path / "aligned", TARGETS[kind], variant=variant)
    penalty = FullPenalty(anchor, model)
    assert penalty.norms().penalty == 0.0
    expected = naive(tmp_path, kind, moved(model), start, variant)
    penalty.add_gradients(LAM)
    assert penalty.norms().penalty == pytest.approx(expected[""].item(), rel=1e-9)
    for name, parameter in model.named_parameters():
        if expected[name] is None:
            assert parameter.grad is None, name
        else:
            assert torch.allclose(parameter.grad, LAM * expected[name], rtol=1e-8, atol=1e-10), name


def test_callback_penalises_the_change_since_training_began(tmp_path: Path) -> None:
    from test_anchor_trainer import train

    save_pair(tmp_path, "llama", torch.float64)
    anchor = Anchor.build(tmp_path / "base", tmp_path / "aligned", TARGETS["llama"])

    def run(callbacks: list[FullAsFTCallback]) -> tuple[PreTrainedModel, list[dict[str, Tensor]]]:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "aligned", dtype=torch.float64)
        _, gradients = train(model, callbacks, tmp_path, max_steps=2, learning_rate=1e-2, optim="sgd")
        return model, gradients.steps

    start = AutoModelForCausalLM.from_pretrained(tmp_path / "aligned", dtype=torch.float64).state_dict()
    _, alone = run([])
    callback = FullAsFTCallback(anchor, LAM)
    _, both = run([callback])
    for name in alone[0]:  # ΔW = 0 at the first step, so the penalty pulls nowhere and both runs are still equal
        assert torch.allclose(both[0][name], alone[0][name], rtol=1e-10, atol=1e-14)
    # Before the second step both models are the same (SGD): W(0) − lr·g, so ΔW is known exactly.
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "aligned", dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.sub_(alone[0][name], alpha=1e-2)
    penalty = naive(tmp_path, "llama", model, start)
    for name, parameter in model.named_parameters():
        extra = torch.zeros_like(parameter) if penalty[name] is None else LAM * penalty[name]
        assert torch.allclose(both[1][name], alone[1][name] + extra, rtol=1e-8, atol=1e-11), name
    assert callback.norms().update > 0


def test_weights_that_are_trained_again_keep_their_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``auto_find_batch_size`` does where memory runs out at a step, and whoever calls ``train`` twice."""
    from test_anchor_trainer import train

    model = save_pair(tmp_path, "llama", torch.float64)
    callback = FullAsFTCallback(Anchor.build(tmp_path / "base", tmp_path / "aligned", ["q_proj"]), LAM)
    train(model, [callback], tmp_path, learning_rate=1e-2)
    before, held = callback.norms(), []
    monkeypatch.setattr(
        callback, "bind", lambda model: held.append(callback.penalty) or type(callback).bind(callback, model)
    )
    train(model, [callback], tmp_path)  # at a rate of 0
    assert before.update > 0
    assert callback.norms() == before
    assert held == [None], "two copies of the anchor need twice the memory"
    train(AutoModelForCausalLM.from_pretrained(tmp_path / "aligned"), [callback], tmp_path)
    assert callback.norms().update == 0


def test_bf16_weights_are_subtracted_in_float32(tmp_path: Path) -> None:
    model = save_pair(tmp_path, "llama", torch.bfloat16)
    anchor = Anchor.build(tmp_path / "base", tmp_path / "aligned", ["q_proj"])
    penalty = FullPenalty(anchor, model)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    moved(model)
    exact = sum(
        float((model.get_submodule(name).weight.double() - start[f"{name}.weight"].double()).square().sum())
        for name in anchor
    )
    assert penalty.norms().update == pytest.approx(exact**0.5, rel=1e-5)


def test_norms_are_computed_where_the_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device, of which nothing can be copied, stands in for a GPU."""
    model = save_pair(tmp_path, "llama", torch.float32)
    anchor = Anchor.build(tmp_path / "base", tmp_path / "aligned", ["q_proj"], form="gram")
    (term,) = FullPenalty(anchor, model)._rounds[0].own
    term.form = term.form.to(torch.device("meta"), torch.float32)
    monkeypatch.setattr(Tensor, "cpu", lambda found: torch.zeros(found.shape))
    assert term.squares(torch.empty(term.shape, device="meta")).shape == (4,)


def test_a_weight_gets_its_gradient_when_it_is_trained_now(tmp_path: Path) -> None:
    model = save_pair(tmp_path, "llama", torch.float64)
    first, second = (layer.self_attn.q_proj.weight for layer in model.model.layers)
    first.requires_grad_(False)
    penalty = FullPenalty(Anchor.build(tmp_path / "base", tmp_path / "aligned", ["q_proj"]), model)
    moved(model)
    penalty.add_gradients(LAM)
    assert first.grad is None
    assert float(second.grad.norm()) > 0
    once = second.grad.clone()
    first.requires_grad_(True)
    second.requires_grad_(False)
    penalty.add_gradients(LAM)
    assert float(first.grad.norm()) > 0
    assert torch.equal(second.grad, once)


def test_refusals(tmp_path: Path) -> None:
    model = save_pair(tmp_path, "llama")
    anchor = Anchor.build(tmp_path / "base", tmp_path / "aligned", ["q_proj"])
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"All 2 anchored modules are frozen"):
        FullPenalty(anchor, model)
    with pytest.raises(ValueError, match=r"lacks 2 of 2 anchored modules, first 'model.layers.0.self_attn.q_proj'"):
        FullPenalty(anchor, torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"holds adapters.*use AsFTCallback"):
        FullPenalty(anchor, with_lora(model, ["q_proj"]))
