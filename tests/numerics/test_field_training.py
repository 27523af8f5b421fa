"""What defines the training-stage defences beyond the paper, numerically."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anchor_pairs import with_lora
from helpers import MakeJob
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import TrainerControl

from asft.data.rows import Row
from asft.data.templates import ChatTemplate
from asft.methods.ema import EMA
from asft.methods.look_ahead import LookAheadReal, LookAheadVirtual
from asft.methods.own_pass import OwnPass, batches, examples, prompts
from asft.methods.safe_grad import answer_logits, divergence, surgery
from asft.methods.sbr import SBRBenign, last_states
from asft.pipeline.run import _Run


def trained(job: Any) -> dict[str, Tensor]:
    return load_file(next(_Run(job).train_stage().path.glob("*.safetensors")))


FEW = {"panacea": ["method.harmful=9"]}
OFF = {"sbr": "lam=0", "ema": "decay=0", "panacea": "rho=0", "lookahead_real": "tokens=0"}
ON = ["sbr", "sbr_benign", "safe_grad", "ema", "panacea", "lookahead_real", "lookahead_virtual"]
TUNING = ["training.epochs=2", "training.accumulation=2", "training.batch_size=4"]


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
    assert any(not torch.equal(made[key], weight) for key, weight in sft.items())


class Tuned:
    """A float64 LoRA on the random pair's aligned side, B = 0, and a method's callback on it."""

    def __init__(self, job: Any) -> None:
        self.run = _Run(job)
        self.ctx, self.method = self.run.context, job.cell.method
        torch.manual_seed(0)
        model = self.run.pair.load("aligned", self.run.device).double()
        self.model = with_lora(model, ["q_proj", "v_proj"], rank=2).double().train()
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.move(0.0)
        (callback,) = self.method.callbacks(self.model, self.ctx)
        assert isinstance(callback, OwnPass)
        self.callback = callback

    def move(self, size: float) -> None:
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(size * torch.randn(weight.shape, generator=random, dtype=torch.float64))

    def gradients(self, step: int = 0, task: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
        """The task's gradient, drawn at random, and what the callback makes of it."""
        random = torch.Generator().manual_seed(step)
        before = [task * torch.randn(w.shape, generator=random, dtype=torch.float64) for w in self.weights]
        for weight, gradient in zip(self.weights, before, strict=True):
            weight.grad = gradient.clone()
        drawn = torch.get_rng_state()
        self.callback.on_pre_optimizer_step(None, SimpleNamespace(global_step=step), TrainerControl())  # type: ignore[arg-type]
        assert torch.equal(torch.get_rng_state(), drawn)
        assert self.model.training
        return before, [weight.grad for weight in self.weights if weight.grad is not None]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


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
        left = {k: torch.stack([r.roll(n) for r, n in zip(part, blanks, strict=True)]) for k, part in right.items()}
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
        other = copy.deepcopy(tuned.model).eval()
        weights = [weight for weight in other.parameters() if weight.requires_grad]

        def gradient(batch: Any) -> list[Tensor]:
            return list(torch.autograd.grad(other(**batch).loss, weights))

        here = gradient(given[1])
        kept = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, part in zip(weights, here, strict=True):
                weight.add_(rho * part / (flat(here).norm() + 1e-7))
        there = gradient(given[1])
        before, after = tuned.gradients(1)
        torch.testing.assert_close(flat(after), flat(before) - lam * (flat(there) - flat(here)))
        assert (flat(there) - flat(here)).norm() > 1e-3
        assert all(torch.equal(weight, old) for weight, old in zip(tuned.weights, kept, strict=True)), "where it was"
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)
        last = gradient(given[0])
        tuned.callback.on_train_end(None, None, TrainerControl())  # type: ignore[arg-type]
        shifted = flat(kept) + rho * flat(last) / (flat(last).norm() + 1e-7)
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


@pytest.mark.slow
def test_ptst_changes_the_queries_and_nothing_else(shared_job: MakeJob) -> None:
    job, empty, sft = shared_job("method=ptst"), shared_job("method=ptst", "method.prompt=''"), shared_job("method=sft")
    assert all(torch.equal(trained(job)[name], weight) for name, weight in trained(sft).items())
    method, ctx = job.cell.method, _Run(job).context
    assert method.system_prompt(ctx) == method.prompt != ""  # type: ignore[attr-defined]
    assert empty.cell.method.system_prompt(ctx) == ""
    assert job.plan.generate["FA"] != sft.plan.generate["FA"], "accuracy is asked with the prompt, too"
    assert job.cell.required()["after"].method == sft.cell.method
