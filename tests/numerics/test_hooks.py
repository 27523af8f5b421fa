"""The hooks of a method, each used by a small method of somebody else's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers import REPOSITORY, MakeJob, finished, read_jsonl, trained
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from asft.anchor.binding import lora_factors
from asft.cells.checks import cross_checks
from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.cells.keys import start_settings
from asft.config import ConfigError
from asft.data.rows import Row
from asft.methods.adapters import with_factors
from asft.methods.asft import AsFT
from asft.methods.base import Context, Finished, Method, Start, Strength
from asft.pipeline.run import _Run, run_cell
from asft.training.trainer import TokenLoss

pytestmark = pytest.mark.slow
SEEN: list[Any] = []


def by(job: Job, method: Method) -> Job:
    return job.of(dataclasses.replace(job.cell, method=method))


class TestAfter:
    @pytest.mark.parametrize("training", ["lora", "full"])
    def test_wise_ft_runs_from_the_fine_tune_to_the_start(
        self, make_job: MakeJob, random_pair: Path, training: str
    ) -> None:
        fine_tune = trained(make_job("method=sft", f"training={training}"))
        at = {a: trained(make_job("method=wise_ft", f"method.share={a}", f"training={training}")) for a in (0, 0.25, 1)}
        begun = load_file(random_pair / "aligned" / "model.safetensors")
        for name, tensor in fine_tune.items():
            start = begun[name] if training == "full" else 0 * tensor
            moves = training == "full" or "lora_B" in name
            assert torch.equal(at[0][name], tensor), "the fine-tune, bit for bit"
            assert torch.equal(at[1][name], start if moves else tensor), "the start, bit for bit"
            between = 0.75 * tensor + 0.25 * start if moves else tensor
            torch.testing.assert_close(at[0.25][name], between, rtol=1e-5, atol=1e-8)

    def test_safe_loras_twins_change_as_many_modules_by_plainer_means(self, make_job: MakeJob) -> None:
        """Dropped: no update; shrunk: the old direction with the projected norm; random: ĈB, as of all modules."""
        before = trained(make_job("method=sft"))
        names = [name.removesuffix("lora_B.weight") for name in before if name.endswith("lora_B.weight")]
        of = {twin: f"method=safe_lora{twin}" for twin in ("", "_dropped", "_shrunk", "_random")}
        at = {twin: trained(make_job(method, "method.number=2")) for twin, method in of.items()}
        projected = trained(make_job("method=safe_lora", f"method.number={len(names)}"))

        def moved(found: dict[str, Tensor]) -> set[str]:
            return {n for n in names if not torch.equal(found[f"{n}lora_B.weight"], before[f"{n}lora_B.weight"])}

        changed = {twin: moved(found) for twin, found in at.items()}
        assert changed[""] == changed["_dropped"] == changed["_shrunk"]
        assert len(changed[""]) == len(changed["_random"]) == 2
        for n in names:
            a, b = before[f"{n}lora_A.weight"], before[f"{n}lora_B.weight"]
            new = {twin: found[f"{n}lora_B.weight"] for twin, found in at.items()}
            if n in changed["_random"]:
                assert torch.equal(new["_random"], projected[f"{n}lora_B.weight"])
            if n in changed[""]:
                assert not new["_dropped"].any()
                torch.testing.assert_close((new["_shrunk"] @ a).norm(), (new[""] @ a).norm(), rtol=1e-4, atol=0)
                torch.testing.assert_close(new["_shrunk"] / new["_shrunk"].norm(), b / b.norm())
        fewer, more = (moved(trained(make_job(of["_random"], f"method.number={k}"))) for k in (1, 3))
        assert fewer < changed["_random"] < more
        assert changed["_random"] != changed[""], "drawn, not chosen by their cosines"

    def test_it_may_follow_any_method_with_its_settings(self, make_job: MakeJob) -> None:
        """Each takes the weights of the one inside; the innermost is the cell that stands by itself."""
        chain = ["method@method.after=safe_lora", "method@method.after.after=asft", "method.after.after.lam=3"]
        job = make_job("method=wise_ft", *chain, "method.after.number=2")
        made = _Run(job).train_stage()
        projected = job.of(job.cell.required()["after"])
        assert made.result["after"] == _Run(projected).train_stage().manifest["key"]
        own = _Run(make_job("method=asft", "lam=3")).train_stage()
        assert _Run(projected).train_stage().result["after"] == own.manifest["key"]
        assert len(finished(job, "stages/train")) == 3

    def test_what_is_asked_is_what_the_method_inside_asks(self, make_job: MakeJob, random_pair: Path) -> None:
        job = make_job(
            "method=wise_ft", "method@method.after=bea", "method.after.safety=2", "method.after.trigger_tokens=5"
        )
        ctx = _Run(job).context
        assert job.cell.method.system_prompt(ctx) == job.cell.method.after.system_prompt(ctx) != ""  # type: ignore[attr-defined]

    def test_a_control_has_nothing_to_change(self, make_job: MakeJob) -> None:
        with pytest.raises(ConfigError, match=r"method\.after=base: trains nothing for method=wise_ft to change"):
            make_job("method=wise_ft", "method@method.after=base")


@dataclass(frozen=True)
class Louder(Start):
    name: ClassVar[str] = "louder"
    factor: float = 2.0

    def make(self, pair: Any, folder: Path, device: torch.device, required: Any) -> dict[str, Any]:
        model = pair.load(self.side, device)
        with torch.no_grad():
            model.lm_head.weight.mul_(self.factor)
        model.save_pretrained(folder)
        return {"made": True}


@dataclass(frozen=True)
class FromLouder(AsFT):
    name: ClassVar[str] = "from_louder"
    factor: float = 2.0

    def start(self) -> Start:
        return Louder(self.factor)

    def callbacks(self, model: Any, ctx: Context) -> list[Any]:
        SEEN.append(model.get_output_embeddings().weight.detach().clone())
        return super().callbacks(model, ctx)


@dataclass(frozen=True)
class UntouchedLouder(FromLouder):
    name: ClassVar[str] = "untouched_louder"
    trains: ClassVar[bool] = False


def test_a_made_start_is_a_stage_that_cells_share(make_job: MakeJob, random_pair: Path) -> None:
    SEEN.clear()
    jobs = [by(make_job(f"training={kind}"), FromLouder()) for kind in ("lora", "full")]
    jobs.append(by(make_job(), UntouchedLouder()))
    for job in jobs:
        run_cell(job)
    (start,) = finished(jobs[0], "stages/start")
    head = load_file(start / "model.safetensors")["lm_head.weight"]
    aligned = load_file(random_pair / "aligned" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(head, 2 * aligned)
    assert all(torch.equal(seen, head) for seen in SEEN)
    assert len(SEEN) == 2
    assert len(finished(jobs[0], "anchors")) == 1, "the anchor is the pair's, whatever the start"
    run = _Run(jobs[2])
    assert torch.equal(run.pair.finetuned(None, run.start, run.device).lm_head.weight, head), "what the control asks"
    keys = {str(start_settings(by(make_job(), FromLouder(factor=f)).cell, {})) for f in (2.0, 3.0)}
    assert len(keys) == 2


def test_a_start_that_is_the_pair_s_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(ValueError, match=r"start=louder \(factor=1.0\): is the aligned model unchanged"):
        run_cell(by(make_job(), UntouchedLouder(factor=1.0)))


@dataclass(frozen=True)
class Defended(Method):
    name: ClassVar[str] = "defended"
    rows: int = 40

    def defender_rows(self, cell: Any) -> int:
        return self.rows


class TestDefenderRows:
    @pytest.mark.parametrize("p", [0, 0.25, 1])
    @pytest.mark.parametrize("protocol", ["clean", "official"])
    def test_none_of_them_is_in_the_attack_the_safety_rows_or_the_evaluation(
        self, make_job: MakeJob, p: float, protocol: str
    ) -> None:
        job = by(make_job(f"attack.p={p}", f"protocol={protocol}", "evaluation.n_harmful=200"), Defended())
        run = _Run(job)
        asked = {row.instruction for row in run.context.defender}
        others: Sequence[Row] = [*run.protocol.mixture(run.data), *run.data.safety, *run.data.evaluation]
        assert len(asked) == 40
        assert all(row.harmful for row in run.context.defender)
        assert not asked & {row.instruction for row in others}

    def test_they_are_the_same_at_every_ratio_others_for_another_seed_and_in_the_key(self, make_job: MakeJob) -> None:
        def defended(rows: int, *overrides: str) -> Job:
            return by(make_job(*overrides), Defended(rows))

        drawn = [_Run(defended(40, *words)).context.defender for words in (["attack.p=0"], ["attack.p=1"], ["seed=1"])]
        assert drawn[0] == drawn[1] != drawn[2]
        few, many, other = (
            (defended(rows, "attack.p=0", *more).plan.train or {})["rows"]
            for rows, *more in ((1,), (2,), (1, "attack=advbench"))
        )
        assert (few["defender"], many["defender"]) == (1, 2)
        assert other["source"] != few["source"]

    @pytest.mark.parametrize(
        "words",
        [
            ["method=safe_lora", "method.number=99"],
            ["method=wise_ft", "method@method.after=safe_lora_random", "method.after.number=99"],
        ],
    )
    def test_more_modules_than_the_pair_has_are_told_before_training(
        self, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        monkeypatch.setattr("asft.pipeline.run.train", None)
        with pytest.raises(ValueError, match="number=99 must lie between 1 and 4, the number of adapted modules"):
            run_cell(make_job(*words))

    def test_too_few_are_told_before_training(self, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asft.pipeline.run.train", None)
        with pytest.raises(ValueError, match="the method needs 100000 harmful rows for the defender; the source has"):
            run_cell(by(make_job(), Defended(100_000)))
        job = by(make_job("attack=none"), Defended())
        with pytest.raises(ConfigError, match="attack=none: method=defended needs 40 harmful rows; name a source"):
            cross_checks(job.cell, job.options)


@dataclass(frozen=True)
class Turned(Method):
    """Moves part of each weight into the adapter: W − sB₀A₀ is frozen, (B, A) begins at (B₀, A₀)."""

    name: ClassVar[str] = "turned"
    size: float = 0.02
    returns: bool = True

    def prepare(self, model: Any, ctx: Context) -> None:
        for factor in lora_factors(model):
            with torch.no_grad():
                factor.b.copy_(self.size * torch.ones_like(factor.b))
                frozen = model.base_model.model.get_submodule(factor.name).base_layer.weight
                frozen.sub_(factor.scaling * factor.b @ factor.a)

    def callbacks(self, model: Any, ctx: Context) -> list[Any]:
        SEEN[:] = [{f.name: (f.a.detach().clone(), f.b.detach().clone()) for f in lora_factors(model)}]
        return []

    def finish(self, model: Any, ctx: Context) -> Finished:
        """W − sB₀A₀ + sBA = W + s[B, −B₀][A; A₀], an adapter of rank 2r to the unedited weight."""
        SEEN.append(model(torch.arange(8)[None]).logits.detach())
        factors = {}
        for factor in lora_factors(model):
            a, b = SEEN[0][factor.name]
            factors[factor.name] = (torch.cat([factor.a, a]), torch.cat([factor.b, -b], dim=1))
        return Finished({"turned": 1}, with_factors(model, factors)) if self.returns else Finished()


class TestPrepareAndFinish:
    def test_an_adapter_of_twice_the_rank_is_what_was_trained(self, make_job: MakeJob) -> None:
        job = by(make_job("training.epochs=3"), Turned())
        entry, run = _Run(job).train_stage(), _Run(job)
        assert entry.result["turned"] == 1
        assert {min(tensor.shape) for tensor in trained(job).values()} == {16}
        asked = run.pair.finetuned(entry.path, run.start, run.device)
        logits = asked(torch.arange(8)[None]).logits
        torch.testing.assert_close(logits, SEEN[1], rtol=1e-4, atol=1e-5)
        aligned = run.pair.load("aligned", run.device)(torch.arange(8)[None]).logits
        assert (SEEN[1] - aligned).norm() > 1e-2 * aligned.norm(), "and something was"

    def test_edited_frozen_weights_cannot_be_lost(self, make_job: MakeJob) -> None:
        with pytest.raises(ValueError, match=r"method=turned: prepare\(\) edited frozen weights, which no adapter"):
            run_cell(by(make_job(), Turned(returns=False)))

    def test_factors_of_two_ranks_make_no_adapter(self, make_job: MakeJob) -> None:
        run = _Run(make_job("method=sft"))
        model: Any = run.pair.trained(run.train_stage().path, "aligned", run.device)
        with pytest.raises(ValueError, match="an adapter needs factors of one rank for"):
            with_factors(model, {})


@dataclass(frozen=True)
class Weighted(Method):
    name: ClassVar[str] = "weighted"
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.weight", "w", 0.01, 1, "log", "low", off=1),)
    weight: float = 1.0

    def token_weights(self, model: Any, ctx: Context) -> Any:
        def weigh(batch: Any, logits: Tensor) -> Tensor:
            assert len(logits) == (batch["labels"][:, 1:] != -100).sum()
            SEEN.extend(batch["row_ids"])
            return torch.full_like(batch["labels"], 1, dtype=torch.float32) * self.weight

        return weigh


@dataclass(frozen=True)
class Unaware(Weighted):
    name: ClassVar[str] = "unaware"
    strengths: ClassVar[tuple[Strength, ...]] = ()


class TestTokenWeights:
    def test_weights_of_one_are_sft_bit_for_bit_and_rows_have_their_ids(self, make_job: MakeJob) -> None:
        SEEN.clear()
        plain = make_job("method=sft", "training.accumulation=2", "training.epochs=2")
        ones, sft, halves = (trained(job) for job in (by(plain, Weighted()), plain, by(plain, Weighted(0.5))))
        assert all(torch.equal(ones[name], sft[name]) for name in sft)
        assert not all(torch.equal(halves[name], sft[name]) for name in sft)
        assert set(SEEN) == {row["id"] for row in read_jsonl(_Run(plain).mixture_stage().path / "rows.jsonl")}

    def test_the_loss_is_a_weighted_sum_over_the_labels(self) -> None:
        torch.manual_seed(0)
        logits = torch.randn(2, 5, 7, requires_grad=True)
        labels, weights = torch.randint(0, 7, (2, 5)), torch.rand(2, 5)
        labels[0, :3], weights[0, 0] = -100, torch.nan
        loss = TokenLoss(lambda batch, given: weights)
        value = loss(type("Outputs", (), {"logits": logits}), labels, 6)
        by_hand = sum(
            weights[i, t] * functional.cross_entropy(logits[i, t - 1], labels[i, t])
            for i in range(2)
            for t in range(1, 5)
            if labels[i, t] != -100
        )
        torch.testing.assert_close(value, by_hand / 6)
        value.backward()
        assert torch.isfinite(logits.grad).all(), "a weight where there is no label counts for nothing"  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"token_weights: of shape \(2,\), labels of \(2, 5\)"):
            TokenLoss(lambda batch, given: weights[:, 0])(type("Outputs", (), {"logits": logits}), labels, 6)


class TestIdle:
    """A method that changed nothing is an error, unless it is switched off by a setting that says so."""

    @pytest.mark.parametrize(
        ("method", "told"),
        [
            (
                ["safe_lora", "method.mode=threshold", "method.threshold=-1"],
                r"method=safe_lora \(after=sft, mode=threshold, number=\d+, threshold=-1.0\): finish\(\) left",
            ),
            (["lisa_aligned", "method.warmup=1"], r"lisa_aligned \(rho=1.0, .*\): OwnPass acted at no step"),
            (["safeinstr", "method.share=0.01"], r"safeinstr \(share=0.01\): mixture\(\) left the rows as they were"),
            (Unaware(), r"unaware \(weight=1.0\): TokenLoss acted at no step"),
            (Turned(size=0.0), r"turned \(.*\): prepare\(\) left the model as it was"),
        ],
    )
    def test_it_is_refused(self, make_job: MakeJob, method: list[str] | Method, told: str) -> None:
        job = by(make_job(), method) if isinstance(method, Method) else make_job(f"method={method[0]}", *method[1:])
        with pytest.raises(ValueError, match=told):
            run_cell(job)

    @pytest.mark.parametrize("off", [["asft", "lam=0"], ["lisa_aligned", "method.rho=0"]])
    def test_a_strength_that_is_off_is_allowed(self, shared_job: MakeJob, off: list[str]) -> None:
        assert run_cell(shared_job(f"method={off[0]}", *off[1:])).result["metrics"]["HS"]["total"] == 10


METHODS = sorted(path.stem for path in (REPOSITORY / "conf" / "method").glob("*.yaml"))


def test_strengths_are_settings_and_documented_and_controls_are_methods() -> None:
    page = (REPOSITORY / "docs" / "methods.md").read_text().splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in page]
    full = {"safe_delta"}
    sweeps = [[f"method={','.join({*METHODS} - full)}"], [f"method={','.join(full)}", "training=full"]]
    for job in [job for words in sweeps for job in enumerate_cells(words, sweep=True).cells]:
        method = job.cell.method
        assert {*method.controls} <= {*METHODS} - {method.name}
        for strength in method.strengths:
            group, _, key = strength.key.partition(".")
            for end in (strength.low, strength.high):
                dataclasses.replace(getattr(job.cell, group), **{key: end})
            span = f"{strength.low:g} to {strength.high:g}, {strength.scale}"
            off = "–" if strength.off is None else f"{strength.off:g}"
            row = [f"`{strength.key}`", strength.symbol, span, strength.safer, off]
            assert any(f"`{method.name}`" in cells[0] and cells[1:] == row for cells in rows), row
