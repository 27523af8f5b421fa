"""What defines the defences that change where a fine-tune starts, numerically."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import MakeJob
from safetensors.torch import load_file
from torch import Tensor
from tuned import Tuned, flat

from asft.methods.booster import Booster
from asft.methods.hardened import Aligning
from asft.methods.lox import Extrapolated, leading
from asft.methods.own_pass import batches, examples
from asft.methods.vaccine import Vaccine
from asft.models.pair import Pair
from asft.pipeline.run import _Run

FEW = ["method.safe=8", "method.epochs=2", "method.lr=1e-3"]


class TestLoX:
    def test_the_leading_part(self) -> None:
        change = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).double()
        sizes = torch.linalg.svdvals(change)
        for rank in (1, 3, 5):
            kept = leading(change, rank)
            assert torch.linalg.matrix_rank(kept) == rank
            torch.testing.assert_close(kept.square().sum(), sizes[:rank].square().sum())
            torch.testing.assert_close((kept * change).sum(), sizes[:rank].square().sum())
        for rank in (0, 6, 99):
            assert torch.equal(leading(change, rank), change)

    @pytest.mark.parametrize(("alpha", "rank"), [(0.5, 2), (1.0, 0), (-1.0, 0), (0.0, 0)])
    def test_on_a_pair(self, random_pair: Path, tmp_path: Path, alpha: float, rank: int) -> None:
        pair = Pair(random_pair / "base", random_pair / "aligned", "k")
        told = Extrapolated(alpha, rank).make(pair, tmp_path, torch.device("cpu"), {})
        base, aligned, made = (
            load_file(folder / "model.safetensors") for folder in (pair.base, pair.aligned, tmp_path)
        )
        assert {"model.embed_tokens.weight", "lm_head.weight"} <= {name for name in made if made[name].dim() == 2}
        for name, weight in made.items():
            moved = (weight - aligned[name]).double()
            if weight.dim() < 2 or alpha == 0:
                assert torch.equal(weight, aligned[name])
            elif rank:
                sizes = torch.linalg.svdvals((aligned[name] - base[name]).double())
                assert torch.linalg.svdvals(moved)[rank] < 1e-4 * sizes[0]
                torch.testing.assert_close(
                    moved.square().sum(), alpha**2 * sizes[:rank].square().sum(), rtol=1e-4, atol=0
                )
            else:
                torch.testing.assert_close(moved, alpha * (aligned[name] - base[name]).double(), rtol=1e-4, atol=1e-6)
        assert (told["changed"] == 0) == (alpha == 0)

    def test_what_changes_nothing_is_refused(self, make_job: MakeJob) -> None:
        with pytest.raises(ValueError, match=r"start=extrapolated \(alpha=0.0, rank=0\): is the aligned model"):
            _Run(make_job("method=lox", "method.alpha=0")).start  # noqa: B018


def aligned_anew(job: Any) -> dict[str, Tensor]:
    """The alignment stage's adapter."""
    return load_file(next(_Run(job).required["alignment"].path.glob("*.safetensors")))


class TestHardened:
    @pytest.mark.slow
    def test_switched_off_it_is_sft_on_refusals_bit_for_bit(self, shared_job: MakeJob) -> None:
        job = shared_job("method=booster", "method.harmful=6", "method.lam=0", *FEW)
        sft = aligned_anew(shared_job("method=hardened", *FEW))
        for off in (job, shared_job("method=vaccine", "method.rho=0", *FEW)):
            assert all(torch.equal(sft[name], weight) for name, weight in aligned_anew(off).items())
        for on in (shared_job("method=booster", "method.harmful=6", *FEW), shared_job("method=vaccine", *FEW)):
            assert any(not torch.equal(sft[name], weight) for name, weight in aligned_anew(on).items())

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["booster", "vaccine"])
    def test_the_start_is_the_merged_base_model_shared_by_every_ratio(self, shared_job: MakeJob, name: str) -> None:
        few = [f"method={name}", *FEW, *(["method.harmful=6"] if name == "booster" else [])]
        run, other = (_Run(shared_job(*few, f"attack.p={p}")) for p in (0.1, 0.5))
        assert run.plan.start == other.plan.start != None  # noqa: E711
        made = load_file(run.start / "model.safetensors")
        adapter, base = aligned_anew(run.job), load_file(run.pair.base / "model.safetensors")
        place = "model.layers.0.self_attn.q_proj"
        a, b = (adapter[f"base_model.model.{place}.lora_{factor}.weight"] for factor in "AB")
        torch.testing.assert_close(made[f"{place}.weight"], base[f"{place}.weight"] + 32 / 8 * b @ a)
        assert torch.equal(made["lm_head.weight"], base["lm_head.weight"])
        alignment = run.cell.required()["alignment"]
        assert isinstance(alignment.method, Aligning)
        assert alignment.method.start() == "base"
        assert (alignment.training.lr, alignment.training.epochs, alignment.attack.p) == (1e-3, 2, 0.0)
        rows = alignment.method.mixture(run.drawn[:3], run.context)
        assert len(rows) == 8
        assert {row.id for row in rows} <= {row.id for row in run.data.safety}
        tuned = run.train_stage()
        assert run.pair.finetuned(tuned.path, run.start, run.device) is not None

    def test_the_alignment_stage_has_settings_of_its_own(self, make_job: MakeJob) -> None:
        keys = [make_job("method=booster", *more).plan for more in ([], ["method.lr=1e-4"], ["training.lr=3e-4"])]
        starts = [str(key.start) for key in keys]
        assert starts[0] != starts[1]
        assert starts[0] == starts[2], "the user's learning rate is not the alignment stage's"
        assert keys[0].train != keys[2].train


def test_booster_s_term(shared_job: MakeJob) -> None:
    tuned = Tuned(shared_job("method=booster", "method.harmful=5", "method.batch=3", "method.lam=0.7", *FEW))
    tuned.move(0.1)
    assert isinstance(tuned.method, Booster)
    (tuned.callback,) = tuned.method.aligning(tuned.model, tuned.ctx)
    given = batches(examples(tuned.ctx.defender, tuned.ctx), tuned.ctx, 3, tuned.run.device)
    here, there = tuned.nearby(given[1], -0.1)
    before, after = tuned.gradients(1)
    torch.testing.assert_close(flat(after), flat(before) + 0.7 * (here - there))
    assert (here - there).norm() > 1e-3
    loss = tuned.model.eval()(**given[1]).loss.item()
    tuned.callback.shift(list(torch.autograd.grad(tuned.model(**given[1]).loss, tuned.weights)), -0.01)
    assert tuned.model(**given[1]).loss.item() < loss, "the step that it guards against lowers the harmful loss"


def test_vaccine_s_drift_is_the_steepest(shared_job: MakeJob) -> None:
    """To first order the loss grows by ρ‖e‖, the most that shifts of that norm can do; then the hooks are gone."""
    tuned = Tuned(shared_job("method=vaccine", *FEW))
    tuned.move(0.1)
    (batch,) = batches(tuned.ctx.encoded[:5], tuned.ctx, 5, tuned.run.device)
    outputs: list[Tensor] = []
    attention = [module for name, module in tuned.model.named_modules() if name.endswith("self_attn")]
    handles = [module.register_forward_hook(lambda m, i, out: outputs.append(out[0])) for module in attention]
    loss = tuned.model(**batch).loss
    slope = flat(list(torch.autograd.grad(loss, outputs))).norm().item()
    for handle in handles:
        handle.remove()
    assert isinstance(tuned.method, Vaccine)
    grown, drawn = [], torch.get_rng_state()
    for rho in (2e-2, 1e-2, 0.0):
        (callback,) = dataclasses.replace(tuned.method, rho=rho).aligning(tuned.model, tuned.ctx)
        grown.append(tuned.model(**batch).loss.item() - loss.item())
        assert bool(callback.acted) == (rho > 0)  # type: ignore[attr-defined]
        assert tuned.model.training
        callback.on_train_end(None, None, None)  # type: ignore[arg-type]
    assert grown[2] == 0
    for rho, growth in zip((2e-2, 1e-2), grown, strict=False):
        torch.testing.assert_close(growth, rho * slope, rtol=0.05, atol=0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert tuned.model(**batch).loss.item() == loss.item()
