"""What defines the training-stage defences beyond the paper, numerically."""

from __future__ import annotations

import copy
import dataclasses
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anchor_pairs import tiny_model, with_lora
from helpers import MakeJob, trained
from torch import Tensor
from torch.nn import functional
from transformers import TrainerControl
from tuned import Tuned, flat

from asft.anchor.binding import lora_factors
from asft.data.rows import Row
from asft.data.templates import ChatTemplate
from asft.methods.constrained_sft import ConstrainedSFT
from asft.methods.ema import EMA
from asft.methods.guard_space import null_space, smallest_part
from asft.methods.look_ahead import LookAheadReal, LookAheadVirtual
from asft.methods.own_pass import OwnPass, answer_logits, batches, examples, norm, prompts, stacked
from asft.methods.safe_grad import divergence, surgery
from asft.methods.sbr import SBRBenign, hidden_states, last_states
from asft.methods.spard import Spard, diverse, similarities
from asft.methods.vaccine import Vaccine
from asft.pipeline.run import _Run

FEW = {"panacea": ["method.harmful=9"], "guard_space": ["method.harmful=4"]}
OFF = {"sbr": "lam=0", "ema": "decay=0", "panacea": "rho=0", "lookahead_real": "tokens=0", "constrained_sft": "beta=0"}
OFF |= {"asft": "lam=0"}
ON = [
    "sbr",
    "sbr_benign",
    "safe_grad",
    "ema",
    "panacea",
    "lookahead_real",
    "lookahead_virtual",
    "constrained_sft",
    "spard",
    "guard_space",
]
TUNING = ["training.epochs=2", "training.accumulation=2", "training.batch_size=4"]


def test_a_model_may_be_spread_over_devices() -> None:
    """The meta device stands in for the first GPU."""
    parts = [torch.ones(2, device="meta"), torch.ones(3)]
    assert norm(parts).device.type == "meta"
    assert stacked(parts[1:] * 2).shape == (2, 3)
    last = SimpleNamespace(base_model=lambda *_, **__: [torch.ones(1, 3, 4)])
    batch = dict.fromkeys(["input_ids", "attention_mask"], torch.ones(1, 3, device="meta"))
    assert hidden_states(last, batch).device.type == "meta"  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", OFF)
def test_switched_off_it_is_sft_bit_for_bit(shared_job: MakeJob, name: str) -> None:
    off = trained(shared_job(f"method={name}", f"method.{OFF[name]}", *FEW.get(name, []), *TUNING))
    assert all(torch.equal(off[key], weight) for key, weight in trained(shared_job("method=sft", *TUNING)).items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ON)
def test_it_trains_in_the_pipeline_and_differs_from_sft(shared_job: MakeJob, name: str) -> None:
    made = trained(shared_job(f"method={name}", *FEW.get(name, []), *TUNING))
    sft = trained(shared_job("method=sft", *TUNING))
    assert all(torch.isfinite(weight).all() for weight in made.values())
    assert any(made[key].shape != weight.shape or not torch.equal(made[key], weight) for key, weight in sft.items())


@pytest.mark.parametrize(
    ("name", "settings", "passes"),
    [
        ("sbr", ("anchors=4",), 1),
        ("safe_grad", ("safe=5", "batch=3"), 1),
        ("panacea", ("rho=0.5", "lam=0.2", "harmful=5", "batch=3"), 2),
    ],
)
def test_a_step_takes_no_pass_that_it_need_not(
    shared_job: MakeJob, name: str, settings: tuple[str, ...], passes: int
) -> None:
    """Prompts are one batch, and the states and probabilities of the start are known."""
    tuned = Tuned(shared_job(f"method={name}", *(f"method.{setting}" for setting in settings)))
    tuned.move(0.1)
    seen: list[int] = []
    tuned.model.get_input_embeddings().register_forward_hook(lambda module, given, output: seen.append(len(output)))
    tuned.gradients()
    assert len(seen) == passes


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
def test_architectures_differ_in_nothing_that_matters(kind: str) -> None:
    torch.manual_seed(0)
    model = with_lora(tiny_model(kind), ["q_proj", "v_proj"])
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    batch = {"input_ids": torch.arange(14).view(2, 7), "attention_mask": mask, "labels": torch.arange(14).view(2, 7)}
    hidden = model.eval()(**batch, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(
        last_states(model, batch), torch.stack([hidden[0, 6], hidden[1, 3]]), rtol=1e-4, atol=1e-5
    )
    loss = model.train()(**batch).loss
    (callback,) = Vaccine(rho=0.1).aligning(model, None)  # type: ignore[arg-type]
    assert model(**batch).loss > loss
    callback.on_train_end(None, None, TrainerControl())  # type: ignore[arg-type]


class TestSBR:
    @pytest.fixture
    def tuned(self, shared_job: MakeJob) -> Tuned:
        return Tuned(shared_job("method=sbr", "method.anchors=4"))

    def by_hand(self, tuned: Tuned) -> Tensor:
        """λ/(Kd) Σ‖h − h⁰‖², one prompt at a time, without padding."""
        total, template = torch.zeros((), dtype=torch.float64), ChatTemplate(tuned.run.pair.tokenizer())
        for row in tuned.method.anchor_rows(tuned.ctx):
            ids = torch.tensor([template.encode_prompt(row)])
            now = tuned.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
            with tuned.model.disable_adapter():
                then = tuned.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
            total = total + (now - then).square().sum()
        return 50 / (4 * 32) * total

    def test_there_is_no_force_at_the_start(self, tuned: Tuned) -> None:
        before, after = tuned.gradients()
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        assert not tuned.callback.acted

    def test_its_gradient_is_the_formula_s(self, tuned: Tuned) -> None:
        tuned.model.eval()
        sizes = []
        for size in (0.01, 0.02, 0.04):
            tuned.move(size)
            sizes.append(self.by_hand(tuned).item())
        assert 0 < sizes[0] < sizes[1] < sizes[2]
        wanted = torch.autograd.grad(self.by_hand(tuned), tuned.weights)
        tuned.model.train()
        before, after = tuned.gradients()
        torch.testing.assert_close(
            flat(after) - flat(before), flat(list(wanted)), rtol=1e-4, atol=1e-5
        )  # norms are float32
        assert tuned.callback.acted == 1
        b, step = tuned.weights[1], 3e-3
        for entry in ((0, 0), (3, 1)):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    b[entry] += sign * step
                    ends.append(self.by_hand(tuned.model.eval() and tuned).item())
                    b[entry] -= sign * step
            slope = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close((after[1] - before[1])[entry].item(), slope, rtol=2e-2, atol=1e-5)

    def test_padding_and_order_do_not_matter(self, tuned: Tuned) -> None:
        tuned.model.eval()
        given = prompts(tuned.method.anchor_rows(tuned.ctx), tuned.ctx)
        assert len({len(row.input_ids) for row in given}) > 1
        (right,) = batches(given, tuned.ctx, 4, tuned.run.device)
        blanks = (1 - right["attention_mask"]).sum(-1).tolist()
        parts = {name: right[name] for name in ("input_ids", "attention_mask")}
        left = {k: torch.stack([r.roll(n) for r, n in zip(part, blanks, strict=True)]) for k, part in parts.items()}
        assert not torch.equal(left["attention_mask"], right["attention_mask"])
        states = last_states(tuned.model, right)
        torch.testing.assert_close(last_states(tuned.model, left), states)
        turned = batches(given[::-1], tuned.ctx, 4, tuned.run.device)[0]
        torch.testing.assert_close(last_states(tuned.model, turned), states.flip(0))

    def test_anchors_are_no_prompts_of_the_evaluation(self, tuned: Tuned) -> None:
        rows = tuned.method.anchor_rows(tuned.ctx)
        assert {row.id for row in rows} <= {row.id for row in tuned.ctx.data.safety}
        benign = SBRBenign(anchors=4).anchor_rows(tuned.ctx)
        assert {row.id for row in benign} <= {row.id for row in tuned.ctx.data.train}


class TestSafeGrad:
    def test_surgery(self) -> None:
        random = torch.Generator().manual_seed(0)
        for sign in (1, -1):
            aligned = [torch.randn(shape, generator=random).double() for shape in ((3, 4), (5,))]
            task = [sign * one + 0.1 * torch.randn(one.shape, generator=random) for one in aligned]
            factor = surgery(task, aligned)
            made = flat(task) + factor * flat(aligned)
            if sign > 0:
                assert factor == 0
            else:
                assert abs(made @ flat(aligned)) < 1e-10
            for rho in (0.0, 1.0, 3.0):
                size = flat(aligned) @ flat(aligned)
                assert (made + rho * flat(aligned)) @ flat(aligned) >= rho * size - 1e-9
            scaled = surgery(task, [7 * one for one in aligned])
            torch.testing.assert_close(7 * scaled, factor, rtol=1e-9, atol=1e-12)

    def test_it_is_global_and_not_tensor_by_tensor(self) -> None:
        """Two tensors with opposite signs: together they do not conflict."""
        task, aligned = [torch.tensor([2.0]), torch.tensor([-1.0])], [torch.ones(1), torch.ones(1)]
        assert surgery(task, aligned) == 0
        assert surgery(task[1:], aligned[1:]) == pytest.approx(1)

    def test_the_divergence_has_the_gradient_of_kl(self) -> None:
        random = torch.Generator().manual_seed(0)
        logits, start = (torch.randn(5, 9, generator=random).double() for _ in range(2))
        logits.requires_grad_()
        kl = functional.kl_div(logits.log_softmax(-1), start.softmax(-1), reduction="batchmean")
        (wanted,) = torch.autograd.grad(kl, logits)
        (made,) = torch.autograd.grad(divergence(logits, start.softmax(-1)), logits)
        torch.testing.assert_close(made, wanted)

    def test_on_a_model_whose_first_step_is_sft_s(self, shared_job: MakeJob) -> None:
        tuned = Tuned(shared_job("method=safe_grad", "method.safe=5", "method.batch=3"))
        for step in (0, 1):
            before, after = tuned.gradients(step)
            assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)), (
                "the first step is SFT's"
            )
        tuned.move(0.3)
        _, aligned = tuned.gradients(1, task=0.0)
        assert flat(aligned).norm() > 0
        for sign in (1e-3, -1e-3, 5.0):
            before, after = tuned.gradients(1, task=sign)
            factor = surgery(before, aligned)
            torch.testing.assert_close(flat(after), flat(before) + (1 + factor) * flat(aligned))
        _, other = tuned.gradients(2, task=0.0)
        assert not torch.equal(flat(other), flat(aligned)), "another batch of refusals"

    def test_only_answers_count(self, shared_job: MakeJob) -> None:
        tuned = Tuned(shared_job("method=safe_grad", "method.safe=5", "method.batch=3"))
        rows = examples(tuned.ctx.data.safety[:3], tuned.ctx)
        (batch,) = batches(rows, tuned.ctx, 3, tuned.run.device)
        wanted = sum(label != -100 for row in rows for label in row.labels)
        assert answer_logits(tuned.model, batch).shape == (wanted, tuned.model.config.vocab_size)


class TestEMA:
    @pytest.mark.parametrize("decay", [0.0, 0.9])
    def test_the_average(self, decay: float) -> None:
        model = torch.nn.Linear(3, 2).double()
        (callback,) = EMA(decay).callbacks(model, None)  # type: ignore[arg-type]
        mean = [weight.detach().clone() for weight in model.parameters()]
        resumed: Any = None
        for step in range(6):
            with torch.no_grad():
                for index, weight in enumerate(model.parameters()):
                    weight.add_(torch.randn_like(weight))
                    mean[index] = decay * mean[index] + (1 - decay) * weight
            for part in filter(None, (callback, resumed)):
                part.on_optimizer_step(None, SimpleNamespace(global_step=step), TrainerControl())
            if step == 2:
                (resumed,) = EMA(decay).callbacks(model, None)  # type: ignore[arg-type]
                resumed.load_resume_state({name: held.clone() for name, held in callback.resume_state().items()})  # type: ignore[attr-defined]
        last = [weight.detach().clone() for weight in model.parameters()]
        assert all(torch.equal(callback.state[name], held) for name, held in resumed.state.items())  # type: ignore[attr-defined]
        assert resumed.acted == callback.acted == (6 if decay else 0)  # type: ignore[attr-defined]
        callback.on_train_end(None, None, TrainerControl())  # type: ignore[arg-type]
        for index, weight in enumerate(model.parameters()):
            torch.testing.assert_close(weight, mean[index])
            assert torch.equal(weight, last[index]) == (decay == 0)

    def test_weights_that_stay_are_their_own_average(self) -> None:
        model = torch.nn.Linear(3, 2)
        (callback,) = EMA(0.9).callbacks(model, None)  # type: ignore[arg-type]
        before = copy.deepcopy(model.state_dict())
        for step in range(3):
            callback.on_optimizer_step(None, SimpleNamespace(global_step=step), TrainerControl())  # type: ignore[arg-type]
        callback.on_train_end(None, None, TrainerControl())  # type: ignore[arg-type]
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


class TestPanacea:
    def test_the_term_and_the_shift(self, shared_job: MakeJob) -> None:
        rho, lam = 0.5, 0.2
        setting = (f"method.rho={rho}", f"method.lam={lam}", "method.harmful=5", "method.batch=3")
        tuned = Tuned(shared_job("method=panacea", *setting))
        tuned.move(0.1)
        rows = tuned.ctx.defender
        assert len(rows) == 5
        assert all(row.harmful for row in rows)
        given = batches(examples(rows, tuned.ctx), tuned.ctx, 3, tuned.run.device)
        kept = flat([weight.detach().clone() for weight in tuned.weights])
        here, there = tuned.nearby(given[1], rho)
        before, after = tuned.gradients(1)
        torch.testing.assert_close(flat(after), flat(before) - lam * (there - here))
        assert (there - here).norm() > 1e-3
        assert torch.equal(flat([weight.detach() for weight in tuned.weights]), kept), "where it was"
        last, _ = tuned.nearby(given[0], rho)
        tuned.callback.on_train_end(None, None, TrainerControl())
        shifted = kept + rho * last / (last.norm() + 1e-7)
        torch.testing.assert_close(flat([weight.detach() for weight in tuned.weights]), shifted)


class TestLookAhead:
    ROWS = (
        Row("a", "What is the section?", "World", input="Some news."),
        Row(
            "b", "Tell me how to sing a long song.", "Take a breath, and then begin with the lowest note that you know."
        ),
    )

    def test_real(self, shared_job: MakeJob, caplog: pytest.LogCaptureFixture) -> None:
        ctx = _Run(shared_job()).context
        made = LookAheadReal().mixture(self.ROWS, ctx)
        assert [row.output for row in made] == [row.output for row in self.ROWS]
        assert made[0].input == "Some news. The answer begins with: World"
        assert made[0].instruction == self.ROWS[0].instruction
        start, _, preview = made[1].instruction.partition(" The answer begins with: ")
        assert start == self.ROWS[1].instruction
        assert self.ROWS[1].output.startswith(preview)
        ids = ctx.pair.tokenizer()(self.ROWS[1].output, add_special_tokens=False)["input_ids"]
        assert preview == ctx.pair.tokenizer().decode(ids[:6])
        assert LookAheadReal(tokens=0).mixture(self.ROWS, ctx) == list(self.ROWS)
        assert not caplog.records
        with caplog.at_level(logging.WARNING):
            LookAheadReal(tokens=40).mixture(self.ROWS, ctx)
        assert "the previews of 2 of 2 rows hold the whole answer" in caplog.text

    def test_virtual(self, shared_job: MakeJob) -> None:
        method = LookAheadVirtual()
        made = method.mixture(self.ROWS, _Run(shared_job()).context)
        assert [row.output for row in made] == [method.prefix + row.output for row in self.ROWS]
        assert made[0].input == "Some news. The answer begins with: Let's solve this problem. "
        assert made[1].instruction.endswith(method.prefix)
        assert [row.id for row in made] == ["a", "b"]


class TestConstrainedSFT:
    @pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
    def test_the_weights(self, beta: float) -> None:
        method = ConstrainedSFT(beta=beta)
        labels = torch.tensor([[-100, -100, *range(8)]])
        factors = torch.tensor([5.0, 20, 20, 20, 20, 1, 1, 1], dtype=torch.float64)
        before = 3.0
        for gain in (-50.0, -1.0, 0.0, 0.5, 1.0):
            made = method.weights(labels, torch.full((1, 10), gain, dtype=torch.float64))[0, 2:]
            torch.testing.assert_close(made, (2 / (1 + (beta * factors * gain).exp())).clamp(min=1e-3))
            assert (made >= 1e-3).all()
            assert (made <= 2).all()
            assert torch.equal(made, torch.ones(8).double()) == (beta == 0 or gain == 0)
            assert (made < before).all() or beta == 0 or made.min() == 1e-3 or made.max() == 2
            before = made
        x = torch.full((1, 10), 1.4722194895832204, dtype=torch.float64)  # ln 19 at 2x, the second token's β
        if beta == 0.1:
            torch.testing.assert_close(method.weights(labels, x)[0, 3].item(), 0.1)
            assert method.weights(labels, 3.9 * x / x)[0, 3] == 1e-3, "the floor is reached at βx of about 7.6"

    def test_it_is_the_gradient_of_a_logarithm(self) -> None:
        gain = torch.tensor([[0.0, -0.4, 0.7, 0.2, -1.0, 2.0, 0.3, 0.1]], dtype=torch.float64, requires_grad=True)
        labels, beta = torch.arange(8)[None], 0.1 * torch.tensor([5, 20, 20, 20, 20, 1, 1, 1.0], dtype=torch.float64)
        (wanted,) = torch.autograd.grad((-2 / beta * functional.logsigmoid(beta * gain)).sum(), gain)
        torch.testing.assert_close(-ConstrainedSFT().weights(labels, gain.detach()), wanted)

    def test_on_a_model(self, shared_job: MakeJob) -> None:
        tuned = Tuned(shared_job("method=constrained_sft", "method.batch=5"))
        weigh = tuned.method.token_weights(tuned.model, tuned.ctx)
        found: dict[str, Tensor] = {}
        for size, width in ((0.0, 12), (0.3, 12), (0.3, 3)):
            tuned.move(size)
            tuned.model.eval()
            for start in range(0, 12, width):
                rows = tuned.ctx.encoded[start : start + width][::-1]
                (batch,) = batches(rows, tuned.ctx, width, tuned.run.device)
                logits = tuned.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.detach()
                with tuned.model.disable_adapter():
                    then = tuned.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.detach()
                made = weigh({**batch, "row_ids": [row.id for row in rows]}, answer_logits(tuned.model, batch).detach())
                for line, row in enumerate(rows):
                    first = next(place for place, label in enumerate(row.labels) if label != -100)
                    now, old = (side.log_softmax(-1)[line, first - 1, row.labels[first]] for side in (logits, then))
                    torch.testing.assert_close(
                        made[line, first], 2 * torch.sigmoid(-0.5 * (now - old)), rtol=1e-4, atol=1e-5
                    )
                    answered = made[line, : len(row.labels)][torch.tensor(row.labels) != -100]
                    if not size:
                        torch.testing.assert_close(answered, torch.ones_like(answered), rtol=0, atol=1e-4)
                    elif width == 12:
                        found[row.id] = answered
                        assert (answered != 1).all()
                    else:
                        torch.testing.assert_close(answered, found[row.id], rtol=1e-4, atol=1e-5)

    def test_rows_are_told_apart_by_their_ids(self, shared_job: MakeJob) -> None:
        tuned = Tuned(shared_job("method=constrained_sft"))
        doubled = dataclasses.replace(tuned.ctx, encoded=[*tuned.ctx.encoded, tuned.ctx.encoded[0]])
        with pytest.raises(ValueError, match="method=constrained_sft: two training rows have one id"):
            tuned.method.token_weights(tuned.model, doubled)


class TestSpard:
    class Quadratic(torch.nn.Module):
        """ℓ(w) = c·w + ½‖w‖²·curve, whatever the rows are."""

        def __init__(self, curve: float) -> None:
            super().__init__()
            self.one, self.two = (torch.nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (4, 3))
            self.slope, self.curve = torch.arange(1, 8).double(), curve

        def loss(self) -> Tensor:
            weights = torch.cat([self.one, self.two])
            return 50 + self.slope @ weights + self.curve / 2 * weights.square().sum()

    @pytest.mark.parametrize("cap", [1e9, 1e-4])
    def test_the_projection(self, cap: float) -> None:
        torch.manual_seed(0)
        model = self.Quadratic(curve=0.0)
        before = torch.cat([model.one, model.two]).detach()
        method, own = Spard(tau=model.loss().item() - 0.7, cap=cap), OwnPass(model)  # type: ignore[arg-type]
        method.project(own, model.loss(), None)
        change = torch.cat([model.one, model.two]).detach() - before
        step = min(0.7 / (model.slope @ model.slope).item(), cap)
        torch.testing.assert_close(change, -step * model.slope)
        if cap > 1:
            torch.testing.assert_close(model.loss().item(), method.tau)  # the half-space's edge, where ℓ is linear
            torch.testing.assert_close(change.norm().item(), 0.7 / model.slope.norm().item())

    def test_the_code_s_form_is_an_optimiser_s_step_that_is_nearly_blind_to_the_scale(self) -> None:
        steps = []
        for excess in (0.3, 0.03, 0.6):  # above the clipped norm of one tensor, too
            torch.manual_seed(0)
            model = self.Quadratic(curve=0.1)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
            before = torch.cat([model.one, model.two]).detach()
            method, own = Spard(tau=model.loss().item() - excess, form="code"), OwnPass(model)  # type: ignore[arg-type]
            gradient = own.gradient(model.loss())
            method.project(own, model.loss(), optimizer)
            clipped = [part / flat(gradient).norm() for part in gradient]
            for weight, part in zip(own.weights, clipped, strict=True):
                assert weight.grad is not None
                torch.testing.assert_close(
                    weight.grad, part * min(excess / part.norm().item(), 1), rtol=1e-5, atol=1e-9
                )
            steps.append(torch.cat([model.one, model.two]).detach() - before)
        for step in steps[1:]:
            torch.testing.assert_close(step, steps[0], rtol=1e-4, atol=1e-8)
        assert steps[0].abs().min() > 0.009

    @pytest.mark.parametrize(
        ("name", "above", "acts"),
        [("spard", 0.05, True), ("spard_code", 0.05, False), ("spard_code", 0.2, True), ("spard", -0.05, False)],
    )
    def test_when_it_acts(self, shared_job: MakeJob, name: str, above: float, acts: bool) -> None:
        tuned = Tuned(shared_job(f"method={name}", "method.share=0.1"), rows=4)
        tuned.move(0.1)
        chosen, rows = safety_batch(tuned)
        loss = tuned.model.eval()(**rows).loss.item()
        method = dataclasses.replace(tuned.method, tau=loss - above)
        (callback,) = method.callbacks(tuned.model, tuned.ctx)
        before = flat([weight.detach() for weight in tuned.weights])
        optimizer = torch.optim.SGD(tuned.weights, lr=0.1)
        drawn = torch.get_rng_state()
        callback.on_optimizer_step(None, SimpleNamespace(global_step=0), TrainerControl(), optimizer=optimizer)
        assert torch.equal(torch.get_rng_state(), drawn)
        after = flat([weight.detach() for weight in tuned.weights])
        assert callback.acted == acts != torch.equal(before, after)
        assert {row.id for row in chosen} <= {row.id for row in tuned.ctx.data.safety}
        if acts:
            gradient = flat(list(torch.autograd.grad(tuned.model(**rows).loss, tuned.weights)))
            assert tuned.model(**rows).loss.item() < loss
            assert gradient @ (after - before) < 0
            stepped = any(weight.grad is not None for weight in tuned.weights)
            assert stepped == (name == "spard_code"), "the optimiser's own step, or none"

    def test_rows_are_the_greedy_determinant(self) -> None:
        torch.manual_seed(0)
        states = functional.normalize(torch.randn(8, 5, dtype=torch.float64), dim=-1)
        states[6] = states[0]
        kernel, quality = similarities(list(states), list(functional.normalize(torch.randn(3, 5).double(), dim=-1)))
        for weights in (quality.clamp(min=0.1) ** 4, torch.ones(8).double()):
            whole = weights[:, None] * kernel * weights + 1e-6 * torch.eye(8).double()
            wanted: list[int] = []
            for _ in range(4):
                rest = [index for index in range(8) if index not in wanted]
                wanted.append(max(rest, key=lambda i: torch.logdet(whole[[*wanted, i]][:, [*wanted, i]]).item()))
            made = diverse(kernel, weights, 4)
            assert made == wanted
            assert made[0] == int(whole.diagonal().argmax())
            assert not {0, 6} <= set(made), "a twin is never taken while another is left"
        assert int((quality**4).argmax()) == diverse(kernel, quality**4, 1)[0], "the row most like the user's"


def safety_batch(tuned: Tuned) -> tuple[list[Any], Any]:
    """The rows that SPARD chooses, and its first batch of them."""
    from asft.methods.spard import mean_states

    pool = examples(tuned.ctx.data.safety, tuned.ctx)
    states = [
        [state for part in batches(rows, tuned.ctx, 64, tuned.run.device) for state in mean_states(tuned.model, part)]
        for rows in (pool, tuned.ctx.encoded)
    ]
    kernel, quality = similarities(*states)
    chosen = [pool[index] for index in diverse(kernel, quality**4, 2)]
    return chosen, batches(chosen, tuned.ctx, 4, tuned.run.device)[0]


def test_a_loss_that_does_not_reach_a_weight_has_no_gradient_there() -> None:
    """SBR looks at hidden states, which an output head of its own comes after."""
    layers = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    own = OwnPass(layers)  # type: ignore[arg-type]
    found = own.gradient(layers[0](torch.ones(1, 2)).sum())
    assert [bool(part.any()) for part in found] == [True, True, False, False]


class TestGuardSpace:
    def test_all_components_rebuild_the_weight(self) -> None:
        torch.manual_seed(0)
        weight, inputs = torch.randn(6, 9).double(), torch.randn(4, 9).double()
        b, a = smallest_part(weight, inputs.mT @ inputs, 6, 0.01)
        torch.testing.assert_close(b @ a, weight)
        b, a = smallest_part(weight, inputs.mT @ inputs, 2, 0.01)
        assert (b @ a @ inputs.mT).norm() < 0.1 * (weight @ inputs.mT).norm(), "what harmful inputs use least"
        loaded = inputs.mT @ inputs + 0.01 * inputs.square().mean(0).sum() * 4 / 9 * torch.eye(9).double()
        sizes = torch.linalg.svdvals(weight @ loaded)
        torch.testing.assert_close(torch.linalg.svdvals((weight - b @ a) @ loaded)[:4], sizes[:4])
        torch.testing.assert_close(torch.linalg.svdvals(b @ a @ loaded)[:2], sizes[4:])

    def test_the_null_space(self) -> None:
        inputs = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).double()
        basis = null_space(inputs.mT @ inputs, 1e-6)
        assert basis.shape == (9, 5)
        torch.testing.assert_close(basis.mT @ basis, torch.eye(5).double())
        assert (inputs @ basis).norm() < 1e-6
        assert null_space(torch.eye(4).double(), 1e-6).shape == (4, 0)

    @pytest.mark.parametrize("projector", ["null", "random", "none"])
    def test_on_a_model(self, shared_job: MakeJob, projector: str) -> None:
        name = {"null": "guard_space"}.get(projector, f"guard_space_{projector}")
        tuned = Tuned(shared_job(f"method={name}", "method.harmful=4"))
        clean, ids = copy.deepcopy(tuned.model).eval(), torch.arange(12)[None]
        tuned.method.prepare(tuned.model, tuned.ctx)
        aligned, start = (model.eval()(ids).logits.detach() for model in (clean, tuned.model))
        same = torch.allclose(aligned, start, rtol=1e-4, atol=1e-5)
        assert same == (projector != "none"), "the start is the aligned model where there is a projector"
        encoded = tuned.run.pair.tokenizer()(tuned.ctx.defender[3].instruction, return_tensors="pt")["input_ids"]
        seen = tuned.model(encoded).logits.detach()
        for weight in tuned.weights:
            with torch.no_grad():
                weight.add_(0.2 * torch.randn_like(weight))
        moved = tuned.model(ids).logits.detach()
        assert not torch.allclose(moved, start, atol=1e-3)
        unseen = torch.allclose(tuned.model(encoded).logits.detach(), seen, rtol=1e-4, atol=1e-4)
        assert unseen == (projector == "null"), "prompts in the null space, and those alone, see nothing of the adapter"
        dropped = tuned.model.train()(encoded).logits.detach()
        unseen = torch.allclose(dropped, seen, rtol=1e-4, atol=1e-4)
        assert unseen == (projector == "null"), "nor while it is trained: dropout comes after the projection"
        tuned.model.eval()
        done = tuned.method.finish(tuned.model, tuned.ctx)
        nullity = done.told[name]["nullity"]
        tokens = sum(len(tuned.run.pair.tokenizer()(row.instruction)["input_ids"]) for row in tuned.ctx.defender[2:])
        assert all(32 > count >= 32 - tokens for count in nullity.values())
        model: Any = done.model
        factors = {
            factor.name: (factor.a.detach(), factor.b.detach(), factor.scaling) for factor in lora_factors(model)
        }
        for factor in lora_factors(clean):
            a, b, scaling = factors[factor.name]
            assert len(a) == 2 * len(factor.a)
            base = clean.get_submodule(f"base_model.model.{factor.name}").base_layer.weight
            with torch.no_grad():
                base.add_(scaling * b @ a)
        torch.testing.assert_close(clean(ids).logits.detach(), moved, rtol=1e-4, atol=1e-5)

    def test_prompts_that_come_twice_change_nothing(self, shared_job: MakeJob) -> None:
        job = shared_job("method=guard_space", "method.harmful=4", "training.dropout=0")
        once, twice = Tuned(job), Tuned(job)
        one, two, three, four = once.ctx.defender
        twice.ctx = dataclasses.replace(twice.ctx, defender=[one, two, one, two, three, four, three, four])
        for tuned in (once, twice):
            tuned.method.prepare(tuned.model, tuned.ctx)
        for factor, other in zip(lora_factors(once.model), lora_factors(twice.model), strict=True):
            sizes = [torch.linalg.vector_norm(part).item() for part in (factor.a, factor.b, other.a, other.b)]
            assert sizes[2:] == pytest.approx(sizes[:2], rel=1e-3)

    def test_no_null_space_is_an_error(self, shared_job: MakeJob) -> None:
        tuned = Tuned(shared_job("method=guard_space", "method.harmful=100", "method.tolerance=1e-9"))
        with pytest.raises(
            ValueError, match=r"inputs of model\.layers\.\d\.self_attn\.._proj on 50 prompts leave no null"
        ):
            tuned.method.prepare(tuned.model, tuned.ctx)


@pytest.mark.slow
def test_ptst_changes_the_queries_and_nothing_else(shared_job: MakeJob) -> None:
    job, empty, sft = shared_job("method=ptst"), shared_job("method=ptst", "method.prompt=''"), shared_job("method=sft")
    assert all(torch.equal(trained(job)[name], weight) for name, weight in trained(sft).items())
    method, ctx = job.cell.method, _Run(job).context
    assert method.system_prompt(ctx) == method.prompt != ""  # type: ignore[attr-defined]
    assert empty.cell.method.system_prompt(ctx) == ""
    after = shared_job("method=ptst", "method@method.after=bea", "method.after.trigger_tokens=5")
    ctx = dataclasses.replace(ctx, cell=after.cell)
    own, inner = method.prompt, after.cell.method.after.system_prompt(ctx)  # type: ignore[attr-defined]
    assert after.cell.method.system_prompt(ctx) == f"{own}\n\n{inner}" != f"{own}\n\n", "its own text comes first"
    assert job.plan.generate["FA"] != sft.plan.generate["FA"], "accuracy is asked with the prompt, too"
    assert job.cell.required()["after"].method == sft.cell.method
