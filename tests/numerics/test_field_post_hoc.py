"""What defines the post-hoc defences beyond the paper, numerically."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import MakeJob, read_jsonl
from refusals import refuses
from torch import Tensor

from asft.anchor.binding import lora_factors
from asft.anchor.saved_adapter import FactorKeys, SavedAdapter, read_adapter
from asft.cells.job import Job
from asft.config import ConfigError
from asft.data.rows import Row
from asft.methods.adapters import by_factor, by_update, merged
from asft.methods.antidote import Antidote, linear_maps, prune
from asft.methods.own_pass import batches, examples, in_parts, input_sums
from asft.methods.resta import Resta, dare
from asft.methods.safe_delta import SafeDelta, accept
from asft.methods.safe_merge import SafeMerge
from asft.pipeline.run import _Run
from asft.store.schemas import ROWS_FILE


def updates(model: Any) -> dict[str, Tensor]:
    """s·BA by module, float64."""
    return {f.name: f.scaling * f.b.detach().double() @ f.a.detach().double() for f in lora_factors(model)}


def saved_updates(folder: Path) -> dict[str, Tensor]:
    saved = read_adapter(folder)
    factors = {name: [saved.tensors[key].double() for key in keys] for name, keys in saved.keys.items()}
    return {name: saved.scaling(name) * b @ a for name, (a, b) in factors.items()}


def fine_tune(run: _Run) -> Any:
    return run.pair.trained(run.context.required["after"], run.start, run.device)


def finished(run: _Run, method: Any) -> tuple[Any, dict[str, Any]]:
    """What a method makes of the fine-tune, and what it tells."""
    model = fine_tune(run)
    done = method.finish(model, dataclasses.replace(run.context, cell=dataclasses.replace(run.cell, method=method)))
    return done.model or model, dict(done.told)


def random_factors(seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = ((3, 7), (5, 3))
    a, b = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    return a, b


class TestSafeMerge:
    def test_updates_are_merged_whatever_their_factors_and_factors_are_not(self) -> None:
        task, safe = random_factors(0), random_factors(1)
        turn = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        turned = (torch.linalg.solve(turn, task[0]), task[1] @ turn)
        wanted = 0.8 * task[1] @ task[0] + 0.2 * safe[1] @ safe[0]
        cross = 0.4 * (task[1] @ safe[0] + safe[1] @ task[0])  # √(0.8 · 0.2)
        for factors in (task, turned):
            a, b = by_update(factors, safe, 0.8, 0.2)
            torch.testing.assert_close(b @ a, wanted)
        a, b = by_factor(task, safe, 0.8, 0.2)
        torch.testing.assert_close(b @ a, wanted + cross)
        a, b = by_factor(turned, safe, 0.8, 0.2)
        assert (b @ a - wanted - cross).norm() > 0.1 * cross.norm()

    def test_an_adapter_of_another_scale_counts_by_its_update(self) -> None:
        (a, b), (other_a, other_b) = random_factors(0), random_factors(1)
        keys = {"q": FactorKeys("down", "up")}
        safe = SavedAdapter(Path(), {"lora_alpha": 12}, {"down": other_a, "up": other_b}, None, keys)
        for merge, crossed in ((by_update, 0.0), (by_factor, (0.5 * 4 * 0.8 * 0.2) ** 0.5)):
            found = merged({"q": (a, b)}, {"q": 0.5}, safe, lambda _: (0.8, 0.2), merge)["q"]
            wanted = 0.8 * 0.5 * b @ a + 0.2 * (12 / 3) * other_b @ other_a
            cross = b @ other_a + other_b @ a
            torch.testing.assert_close(0.5 * found[1] @ found[0], wanted + crossed * cross)

    @pytest.mark.slow
    @pytest.mark.parametrize(("kind", "crossed"), [("safe_merge", 0.0), ("safe_merge_peft", 0.4)])
    def test_on_a_cell(self, shared_job: MakeJob, kind: str, crossed: float) -> None:
        """``crossed`` is the share of the terms that no update holds, √(0.8 · 0.2)."""
        job = shared_job(f"method={kind}", "method.safe=8")
        run, method = _Run(job), job.cell.method
        assert isinstance(method, SafeMerge)
        task, safe = updates(fine_tune(run)), saved_updates(run.context.required["safe"])
        other = read_adapter(run.context.required["safe"])
        cross = {}
        for f in lora_factors(fine_tune(run)):
            a, b = (other.tensors[key] for key in other.keys[f.name])
            assert other.scaling(f.name) == f.scaling
            cross[f.name] = f.scaling * (f.b.detach() @ a + b @ f.a.detach()).double()
            assert cross[f.name].norm() > 0.01 * task[f.name].norm()
        scores = finished(run, method)[1]["safe_merge"]["cosines"]
        _, projected = finished(run, shared_job("method=safe_lora", "method.number=2").cell.method)
        assert scores == {m["name"]: m["cosine"] for m in projected["safe_lora"]["modules"]}
        middle, counts = sorted(scores.values())[2], []
        for tau in (-1.0, middle, 1.1):
            made, told = finished(run, dataclasses.replace(method, threshold=tau))
            merged = set(told["safe_merge"]["merged"])
            assert merged == {name for name, score in scores.items() if score < tau}
            counts.append(len(merged))
            for name, update in updates(made).items():
                wanted = 0.8 * task[name] + 0.2 * safe[name] + crossed * cross[name] if name in merged else task[name]
                torch.testing.assert_close(update, wanted, rtol=1e-4, atol=1e-9)
        assert counts == [0, 2, 4]
        only, _ = finished(run, dataclasses.replace(method, threshold=1.1, weight=1.0))
        for name, update in updates(only).items():
            torch.testing.assert_close(update, safe[name], rtol=1e-4, atol=1e-9)
        untouched, _ = finished(run, dataclasses.replace(method, threshold=-1.0))
        assert all(torch.equal(update, task[name]) for name, update in updates(untouched).items())

    def test_the_safe_adapter_serves_every_ratio_and_knows_no_row_of_the_user(self, make_job: MakeJob) -> None:
        required = [make_job("method=safe_merge", f"attack.p={p}").cell.required()["safe"] for p in (0, 0.2)]
        job = make_job()
        assert required[0] == required[1]
        rows = required[0].method.mixture(_Run(job).drawn, _Run(job.of(required[0])).context)
        assert len(rows) == 100
        assert {row.id for row in rows} <= {row.id for row in _Run(job).data.safety}


class TestResta:
    def test_dare_drops_and_keeps_the_mean(self) -> None:
        change = torch.randn(200, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        made = dare(change, 0.75, torch.Generator().manual_seed(1))
        kept = made != 0
        assert abs(kept.double().mean() - 0.25) < 0.01
        torch.testing.assert_close(made[kept], 4 * change[kept])
        assert torch.equal(dare(change, 0.0, torch.Generator()), change)

    @pytest.mark.slow
    def test_on_an_adapter(self, shared_job: MakeJob) -> None:
        job = shared_job("method=resta", "method.harmful=8", "method.gamma=0.5")
        run, method = _Run(job), job.cell.method
        assert isinstance(method, Resta)
        task, harmful = updates(fine_tune(run)), saved_updates(run.context.required["harmful"])
        for name, update in updates(finished(run, method)[0]).items():
            torch.testing.assert_close(update, task[name] - 0.5 * harmful[name], rtol=1e-4, atol=1e-9)
        off, _ = finished(run, dataclasses.replace(method, gamma=0.0))
        assert all(torch.equal(update, task[name]) for name, update in updates(off).items())

    @pytest.mark.slow
    def test_on_full_weights(self, shared_job: MakeJob) -> None:
        job = shared_job("method=resta", "method.harmful=8", "method.gamma=0.5", "training=full", "training.lr=1e-3")
        run, method = _Run(job), job.cell.method
        made, _ = finished(run, method)
        harmful = run.pair.trained(run.context.required["harmful"], run.start, run.device)
        aligned = run.pair.load("aligned", run.device)
        sides = [dict(side.named_parameters()) for side in (fine_tune(run), aligned, harmful)]
        for name, weight in made.named_parameters():
            tuned, aligned, harmed = (side[name] for side in sides)
            torch.testing.assert_close(weight, tuned + 0.5 * (aligned - harmed))
        assert not torch.equal(made.lm_head.weight, sides[0]["lm_head.weight"])

    def test_its_harmful_rows_are_none_of_the_attack_s(self, make_job: MakeJob) -> None:
        job = make_job("method=resta", "attack.p=1", "method.harmful=40")
        run, needed = _Run(job), job.cell.required()["harmful"]
        rows = needed.method.mixture([], _Run(job.of(needed)).context)
        assert len(rows) == 40
        assert not {row.instruction for row in rows} & {row.instruction for row in [*run.drawn, *run.data.evaluation]}
        assert job.plan.train is not None
        assert job.plan.train["rows"]["defender"] == 40, "so that an attack that leaves fewer is refused"


def padded(job: Job, rows: list[Row], size: int) -> tuple[Any, Any, _Run]:
    run = _Run(job)
    model = fine_tune(run)
    return model, batches(examples(rows, run.context), run.context, size, run.device), run


@pytest.mark.slow
def test_sums_of_inputs_are_over_tokens_and_not_over_padding(shared_job: MakeJob) -> None:
    job = shared_job("method=antidote", "method.harmful=7")
    rows = list(_Run(job).context.defender)
    found = []
    for size in (1, 3):
        model, given, _ = padded(job, rows, size)
        maps = linear_maps(model, ("q_proj", "v_proj"))
        found.append(input_sums(model, maps, given, lambda inputs: inputs.flatten(0, 1).mT @ inputs.flatten(0, 1)))
    assert {".lora_A." in name for name in found[0]} == {True, False}
    assert len(found[0]) == 8
    for name, total in found[0].items():
        torch.testing.assert_close(found[1][name], total, rtol=1e-4, atol=1e-6)
    embedded = [model.get_input_embeddings()(batch["input_ids"])[0] for batch in padded(job, rows, 1)[1]]
    first = model.base_model.model.model.layers[0].input_layernorm
    by_hand = torch.stack([first(x).double().square().sum(0) for x in embedded]).sum(0)
    (name,) = [name for name in found[0] if "layers.0.self_attn.q_proj.lora_A" in name]
    torch.testing.assert_close(found[0][name].diagonal(), by_hand)


def test_sums_are_made_in_parts_that_fit() -> None:
    modules = {name: torch.nn.Linear(size, 1) for name, size in (("a", 10), ("b", 10), ("c", 30), ("d", 10))}
    assert [list(part) for part in in_parts(modules, 8 * 200)] == [["a", "b"], ["c"], ["d"]]


class TestAntidote:
    @pytest.mark.parametrize(("share", "count"), [(0, 0), (0.05, 1), (0.1, 1), (0.25, 2), (0.3, 3), (1, 8)])
    def test_the_top_share_of_each_row_goes(self, share: float, count: int) -> None:
        random = torch.Generator().manual_seed(0)
        weight, sizes = torch.randn(5, 8, generator=random).double(), torch.rand(8, generator=random).double()
        made = weight.clone()
        assert prune(made, sizes, share) == 5 * count
        for row, old in zip(made, weight, strict=True):
            gone = (old.abs() * sizes).argsort(descending=True)[:count]
            assert set(gone.tolist()) == set((row == 0).nonzero().flatten().tolist())
            assert torch.equal(row[row != 0], old[row != 0])

    @pytest.mark.slow
    @pytest.mark.parametrize("training", ["lora", "full"])
    def test_on_a_cell(self, shared_job: MakeJob, training: str) -> None:
        lr = ["training.lr=1e-3"] if training == "full" else []
        run = _Run(shared_job("method=antidote", "method.harmful=7", "method.share=0.25", f"training={training}", *lr))
        assert isinstance(run.cell.method, Antidote)
        made, told = finished(run, run.cell.method)
        before = dict(fine_tune(run).named_parameters())
        chosen = ("q_proj", "v_proj") if training == "full" else ("lora_A", "lora_B")
        targets = [name for name in before if any(part in name for part in chosen)]
        assert told["antidote"]["pruned"] == sum(before[name].numel() // 4 for name in targets)
        for name, weight in made.named_parameters():
            zeros = (weight == 0) & (before[name] != 0)
            assert zeros.any() == (name in targets and bool(before[name].any()))
            assert torch.equal(weight[~zeros], before[name][~zeros])


class TestSafeDelta:
    @pytest.fixture
    def problem(self) -> tuple[Tensor, Tensor, Tensor]:
        """A start, a fine-tune and XᵀX."""
        random = torch.Generator().manual_seed(0)
        start, change, x = (torch.randn(shape, generator=random).double() for shape in ((6, 10), (6, 10), (40, 10)))
        return start, start + 0.1 * change, x.mT @ x

    def test_the_ends(self, problem: tuple[Tensor, Tensor, Tensor]) -> None:
        start, tuned, sums = problem
        made, mask = SafeDelta(scale=0, safe=40).edit(start, tuned, sums)
        assert torch.equal(made, start)
        assert not mask.any()
        made, mask = SafeDelta(scale=1e9, safe=40, block=5).edit(start, tuned, sums)
        assert mask.sum() == 2 * round(0.85 * 30)
        assert torch.equal(made[mask], tuned[mask])

    def test_within_each_block_s_budget_the_cheapest_entries_are_accepted(self) -> None:
        change = torch.randn(6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        costs = torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
        before = torch.zeros(6, 10, dtype=torch.bool)
        for scale in (0, 1e2, 3e2, 1e3, 3e3, 1e4):
            mask = accept(change, costs, scale, 0.15)
            assert (mask | ~before).all(), "what a smaller budget accepts a larger one does"
            budget = costs.mean() * scale / 2 * 6 / 4096
            spent = (change.square() * costs)[mask].sum()
            assert spent <= budget
            touched = mask.any(0)
            assert not touched.any() or touched.all() or costs[touched].max() <= costs[~touched].min()
            before = mask
        assert 0 < before.sum() < 60

    def test_without_compensation_every_entry_is_one_of_the_two(self, problem: tuple[Tensor, Tensor, Tensor]) -> None:
        start, tuned, sums = problem
        made, mask = SafeDelta(scale=500, safe=40, compensate=False).edit(start, tuned, sums)
        assert 0 < mask.sum() < 51
        assert torch.equal(made, torch.where(mask, tuned, start))

    def test_the_rest_makes_up_for_what_is_accepted(
        self, problem: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the first column accepted alone, the others are the minimum of tr[(W − W₀)H(W − W₀)ᵀ] given it."""
        start, tuned, sums = problem
        first = torch.zeros(6, 10, dtype=torch.bool)
        first[:, 0] = True
        monkeypatch.setattr("asft.methods.safe_delta.accept", lambda *_: first)
        made, _ = SafeDelta(safe=40).edit(start, tuned, sums.clone())
        hessian = 2 / 40 * sums
        hessian += 0.01 * hessian.diagonal().mean() * torch.eye(10).double()
        rest = -torch.linalg.solve(hessian[1:, 1:], hessian[1:, :1]) @ (tuned - start)[:, :1].mT
        torch.testing.assert_close(made[:, 0], tuned[:, 0])
        torch.testing.assert_close((made - start)[:, 1:], rest.mT)

    @pytest.mark.slow
    def test_on_a_cell(self, shared_job: MakeJob) -> None:
        setting = ["training=full", "training.lr=1e-3", "method.safe=9", "method.batch=4"]
        run = _Run(shared_job("method=safe_delta", *setting))
        made, told = finished(run, dataclasses.replace(run.cell.method, scale=0.0))
        start = dict(run.pair.load("aligned", run.device).named_parameters())
        assert len(told["safe_delta"]["accepted"]) == 2 * 7
        assert all(torch.equal(weight, start[name]) for name, weight in made.named_parameters()), "s = 0 is the start"
        shares = finished(run, dataclasses.replace(run.cell.method, scale=1e9))[1]["safe_delta"]["accepted"].values()
        assert all(abs(share - 0.85) < 1e-3 for share in shares)


@pytest.mark.parametrize("name", ["safe_delta", "safe_merge", "safe_lora_random", "guard_space_none", "asft_alt"])
def test_the_kind_of_training_that_a_method_cannot_act_on_is_refused(make_job: MakeJob, name: str) -> None:
    has, needs, what = ("lora", "full", "full weights") if name == "safe_delta" else ("full", "lora", "LoRA adapters")
    with pytest.raises(ConfigError, match=f"training={has}: method={name} acts on {what}; use training={needs}"):
        make_job(f"method={name}", f"training={has}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=spard", "method.slack=0.3"], "method.slack=0.3: has no effect on method.form=projection"),
        (["method=spard", "method.form=code", "method.cap=2"], "method.cap=2.0: has no effect on method.form=code"),
        (
            ["method=l2", "method.scale=effective", "training=full"],
            "method.scale=effective: has no effect on training=",
        ),
        (["method=bea_no_trigger", "method.after.ask_with_trigger=true"], "asks without the trigger"),
        (["method=safe_merge", "method.weight=0"], "method.weight"),
        (["method=resta", "protocol=official"], "protocol=official: trains on the authors' published files"),
        (["method=booster", "protocol=official"], "protocol=official: trains on the authors' published files"),
    ],
)
def test_a_setting_without_effect_and_a_protocol_without_rows_are_refused(
    make_job: MakeJob, words: list[str], told: str
) -> None:
    with refuses(told):
        make_job(*words).plan  # noqa: B018


def test_a_prefix_before_answers_that_count_as_a_whole_is_refused(make_job: MakeJob) -> None:
    for dataset, counts in (("agnews", True), ("sst2", False)):
        run = _Run(make_job("method=lookahead_virtual", f"dataset={dataset}"))
        with nullcontext() if counts else refuses("dataset=sst2: counts whole answers"):
            run.cell.method.check_rows(run.drawn, run.data, run.cell)


def test_rows_of_the_defender_are_in_the_key(make_job: MakeJob) -> None:
    few, many = (make_job("method=antidote", f"method.harmful={count}").plan.train for count in (3, 4))
    assert few is not None
    assert many is not None
    assert (few["rows"]["defender"], many["rows"]["defender"]) == (3, 4)


def test_the_mixture_of_the_defender_s_fine_tune_is_written(shared_job: MakeJob) -> None:
    job = shared_job("method=safe_merge", "method.safe=8")
    run = _Run(job.of(job.cell.required()["safe"]))
    rows = [Row(**row) for row in read_jsonl(run.mixture_stage().path / ROWS_FILE)]
    assert len(rows) == 8
    assert all(row.id.startswith("safety/") for row in rows)
