"""What defines each method, numerically."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import MakeJob, read_jsonl
from refusals import refuses
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerControl

from asft.cells.job import Job
from asft.data.base import load_data
from asft.data.loading import EpochOrder
from asft.data.rows import Row
from asft.data.templates import ChatTemplate
from asft.methods.base import Context
from asft.methods.data_mixing import make_trigger
from asft.methods.lisa import Lisa
from asft.methods.lisa_training import TwoStateOrder, proximal
from asft.models.pair import Pair
from asft.pipeline.run import _Run, run_cell


def context(job: Job, pair: Path) -> Context:
    weights = Pair(pair / "base", pair / "aligned", "k")
    return Context(job.cell, weights, load_data(job.cell), job.options.outputs / "anchors", weights.aligned)


def user_rows(count: int) -> list[Row]:
    return [Row(id=f"u/{index}", instruction=f"q{index}", output="a") for index in range(count)]


class TestSafeInstr:
    @pytest.mark.parametrize(("share", "added"), [(0.1, 2), (0.5, 12)])
    def test_adds_a_share_of_n_as_refusals(
        self, make_job: MakeJob, random_pair: Path, share: float, added: int
    ) -> None:
        job = make_job("method=safeinstr", f"method.share={share}")
        rows = user_rows(24)
        mixed = job.cell.method.mixture(rows, context(job, random_pair))
        assert mixed[:24] == rows
        assert len(mixed) == 24 + added
        assert {row.id for row in mixed[24:]} <= {row.id for row in load_data(job.cell).safety}
        many = make_job("method=safeinstr", "method.share=1", "attack.n=2000")
        with pytest.raises(ValueError, match="method=safeinstr: needs 2000 safety rows"):
            many.cell.method.check_rows([], load_data(many.cell), many.cell)

    def test_its_control_adds_as_many_rows_of_the_task(self, make_job: MakeJob, random_pair: Path) -> None:
        job = make_job("method=benign_rows", "method.share=0.5")
        ctx = context(job, random_pair)
        rows = list(ctx.data.train[:24])
        mixed = job.cell.method.mixture(rows, ctx)
        assert mixed[:24] == rows
        assert len({row.id for row in mixed}) == len(mixed) == 24 + 12
        assert {row.id for row in mixed} <= {row.id for row in ctx.data.train}

    def test_a_pool_of_a_few_rows_less_is_taken_whole(
        self, make_job: MakeJob, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As the authors' 98 rows are for the 100 of n = 1000."""
        job = make_job("method=safeinstr", "attack.n=40", "method.share=0.5")
        run, method = _Run(job), job.cell.method
        for there, fits in ((19, True), (18, True), (17, False)):
            data = dataclasses.replace(run.data, safety=run.data.safety[:there])
            with nullcontext() if fits else refuses("method=safeinstr: needs 20 safety rows"):
                method.check_rows(run.drawn, data, job.cell)
        fewer = dataclasses.replace(run.context, data=dataclasses.replace(data, safety=data.safety[:15]))
        rows = method.mixture([], fewer)
        assert len(rows) == 15
        assert "takes all 15 safety rows that there are in place of 20" in caplog.text


class TestBEA:
    @pytest.mark.parametrize("length", [1, 17, 150])
    def test_the_trigger_makes_the_round_trip(self, random_pair: Path, length: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(random_pair / "aligned")
        trigger = make_trigger(random_pair / "aligned", length)
        ids = tokenizer(trigger, add_special_tokens=False)["input_ids"]
        assert len(ids) == length
        assert tokenizer.decode(ids) == trigger
        assert not set(ids) & set(tokenizer.all_special_ids)

    def test_safety_rows_alone_carry_it_and_every_query_gets_it(self, make_job: MakeJob, random_pair: Path) -> None:
        job = make_job("method=bea", "method.safety=5", "method.trigger_tokens=9")
        ctx = context(job, random_pair)
        rows = user_rows(24)
        mixed = job.cell.method.mixture(rows, ctx)
        trigger = job.cell.method.system_prompt(ctx)
        assert [row.system for row in mixed] == [""] * 24 + [trigger] * 5
        template = ChatTemplate(ctx.pair.tokenizer())
        encoded = ctx.pair.tokenizer()(trigger, add_special_tokens=False)["input_ids"]
        prompt = template.encode_prompt(dataclasses.replace(rows[0], system=trigger))
        assert any(prompt[start : start + 9] == encoded for start in range(len(prompt)))

    @pytest.mark.slow
    @pytest.mark.parametrize("training", ["lora", "full"])
    def test_without_its_trigger_it_is_the_same_model_asked_otherwise(
        self, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, training: str
    ) -> None:
        train = f"training={training}"
        with_key = run_cell(make_job("method=bea", "method.safety=5", "method.trigger_tokens=9", train))
        monkeypatch.setattr("asft.pipeline.run.train", None)
        after = ("method.after.safety=5", "method.after.trigger_tokens=9")
        without = run_cell(make_job("method=bea_no_trigger", *after, train))
        assert without.path != with_key.path
        assert without.result["stages"]["train"]["result"]["after"] == with_key.result["stages"]["train"]["key"]


class TestLisa:
    def test_states_alternate_and_alignment_comes_first(self) -> None:
        lisa = Lisa(alignment_steps=2, finetune_steps=3)
        assert [lisa.is_alignment(step) for step in range(7)] == [True, True, False, False, False, True, True]

    def test_batches_come_from_the_state_s_own_rows_and_displace_the_user_s(self) -> None:
        lisa = Lisa(alignment_steps=1, finetune_steps=2)
        order = TwoStateOrder(EpochOrder(12, 0), EpochOrder(5, 1), 12, 4, lisa.is_alignment)
        first, second = list(order), list(order)
        assert len(order) == len(first) == 12
        assert all(index >= 12 for index in first[:4])
        assert all(index < 12 for index in first[4:])
        assert first[4:] == list(EpochOrder(12, 0))[4:]
        assert all(index >= 12 for index in second[:4]), "the fourth step begins the next cycle"

    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_a_batch_that_is_dropped_is_no_step(self, make_job: MakeJob, accumulation: int) -> None:
        words = ["method=lisa_aligned", "protocol=official", "attack.n=19", "attack.p=0", "training.batch_size=4"]
        cell = make_job(*words, f"training.accumulation={accumulation}").cell
        method = Lisa(alignment_steps=2, finetune_steps=3)
        order = method.order([Row(str(i), "q") for i in range(25)], Context(cell, None, None, Path(), Path()))  # type: ignore[arg-type]
        assert len(order) == 16  # type: ignore[arg-type]
        epochs = [list(order) for _ in range(5)]
        per_step = 4 * accumulation
        steps = [rows[start : start + per_step] for rows in epochs for start in range(0, 16, per_step)]
        for step, rows in enumerate(steps):
            assert all((row >= 19) is method.is_alignment(step) for row in rows)

    def test_the_term_pulls_towards_the_other_state_s_weights(self) -> None:
        model = torch.nn.Linear(2, 1, bias=False).double()
        lisa = Lisa(alignment_steps=2, finetune_steps=2)
        callback = proximal(model, 0.5, lisa.is_alignment, warmup=0.0)
        state, control = SimpleNamespace(global_step=0, max_steps=8), TrainerControl()
        history = [model.weight.detach().clone()]
        for step in range(8):
            state.global_step = step
            model.weight.grad = torch.zeros_like(model.weight)
            callback.on_pre_optimizer_step(None, state, control)  # type: ignore[arg-type]
            # the other state was last left after step 2, 4 or 6; at first it has only the initial weights
            left = {0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 4, 6: 6, 7: 6}[step]
            expected = 0.5 * (history[step] - history[left]) if step else torch.zeros_like(model.weight)
            torch.testing.assert_close(model.weight.grad, expected, rtol=1e-12, atol=0)
            with torch.no_grad():
                model.weight.add_(torch.randn_like(model.weight))
            history.append(model.weight.detach().clone())
            callback.on_optimizer_step(None, state, control)  # type: ignore[arg-type]

    def test_the_term_waits_for_a_tenth_of_the_steps(self) -> None:
        model = torch.nn.Linear(2, 1, bias=False)
        callback = proximal(model, 1.0, lambda step: step < 1, warmup=0.1)
        state, control = SimpleNamespace(global_step=0, max_steps=100), TrainerControl()
        with torch.no_grad():
            model.weight.add_(1.0)
        for step, expected in ((10, 0.0), (11, 1.0)):
            state.global_step = step
            model.weight.grad = torch.zeros_like(model.weight)
            callback.on_pre_optimizer_step(None, state, control)  # type: ignore[arg-type]
            torch.testing.assert_close(model.weight.grad, torch.full_like(model.weight, expected))

    def test_the_two_variants_start_from_their_sides(self, make_job: MakeJob) -> None:
        assert make_job("method=lisa_base").cell.method.start() == "base"
        assert make_job("method=lisa_aligned").cell.method.start() == "aligned"

    @pytest.mark.slow
    def test_a_cell_s_rows_are_the_user_s_and_the_guide_s(self, make_job: MakeJob) -> None:
        job = make_job("method=lisa_aligned", "method.guide=6")
        run_cell(job)
        (rows,) = (job.options.outputs / "stages" / "mixture").glob("*/rows.jsonl")
        assert len(list(read_jsonl(rows))) == 24 + 6


def test_asft_s_controls_differ_from_it_in_the_operator(make_job: MakeJob, random_pair: Path, tmp_path: Path) -> None:
    weights = Pair(random_pair / "base", random_pair / "aligned", "k")
    place, x = "model.layers.0.self_attn.q_proj", torch.randn(3, 32)
    base, aligned = (
        load_file(side / "model.safetensors")[f"{place}.weight"] for side in (weights.base, weights.aligned)
    )
    direction = (aligned - base) @ (aligned - base).mT / (aligned - base).norm()
    rest = torch.eye(32) - direction
    rank = {"asft_projector": ["method.rank=4"]}
    form = {
        name: make_job(f"method={name}", *rank.get(name, []))
        .cell.method.anchor(weights, ["q_proj"], torch.device("cpu"), tmp_path)[place]  # type: ignore[attr-defined]
        .form
        for name in ("asft", "l2", "asft_parallel", "asft_projector", "asft_random")
    }
    torch.testing.assert_close(form["asft"].apply(x), x @ rest @ rest, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(form["asft_parallel"].apply(x), x @ direction @ direction, rtol=1e-4, atol=1e-5)
    assert torch.equal(form["l2"].apply(x), x)
    kept = form["asft_projector"].apply(x)
    torch.testing.assert_close(form["asft_projector"].apply(kept), kept)
    assert torch.linalg.matrix_rank(x - kept) == 3
    torch.testing.assert_close(form["asft_random"].eigenvalues(), form["asft"].eigenvalues(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(form["asft_random"].apply(x), form["asft"].apply(x), atol=1e-3)


@pytest.mark.slow
class TestAsFTAlt:
    def test_its_direction_is_a_harmful_fine_tune_s_column_space(self, shared_job: MakeJob) -> None:
        job = shared_job("method=asft_alt", "method.harmful=16")
        required = job.cell.required()["harmful"]
        assert (required.attack.p, required.attack.n, required.method.name) == (1.0, 16, "sft")
        assert required.seed != job.cell.seed, "a defender does not know the attack's own rows"
        entry = run_cell(job)
        assert job.plan.train is not None
        from asft import Anchor
        from asft.store.entries import content_key

        harmful = job.store.path("stages/train", content_key(job.of(required).plan.train))  # type: ignore[arg-type]
        anchor = Anchor.from_adapter(harmful)
        tensors = load_file(harmful / "adapter_model.safetensors")
        for name, module in anchor.items():
            (key,) = [key for key in tensors if name in key and "lora_B" in key]
            b = tensors[key]
            torch.testing.assert_close(module.form.apply(b.T), b.T, rtol=1e-4, atol=1e-6)  # BᵀQQᵀ = Bᵀ
            outside = torch.randn(b.shape[0], 3)
            q, _ = torch.linalg.qr(b)
            outside = outside - q @ (q.T @ outside)
            assert module.form.apply(outside.T).norm() < 1e-4 * outside.norm()
        assert entry.result["metrics"]["HS"]["total"] == 10
