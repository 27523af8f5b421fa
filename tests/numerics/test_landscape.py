"""Directions in weight space, the perturbed model, the safe stretch, and the measures on a small pair."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import MakeJob
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from asft.config import ConfigError
from asft.measures import directions
from asft.measures.base import MeasureContext, direction_of
from asft.measures.cosine import gaussian_mean, random_cosines
from asft.measures.directions import Perturbed
from asft.measures.landscape import EPL, Lines, Plane, safe_stretch
from asft.models.pair import Pair
from asft.pipeline.run import run_cell
from asft.store.entries import Entry
from asft.store.schemas import DETAILS

TARGETS = ("q_proj", "v_proj")


@pytest.fixture(scope="module")
def model(random_pair: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(random_pair / "aligned")


def sft_adapter(shared_job: MakeJob) -> Path:
    entry = run_cell(job := shared_job("method=sft"))
    return job.store.path("stages/train", entry.result["stages"]["train"]["key"])


def details(entry: Entry) -> dict[str, object]:
    found: dict[str, object] = json.loads((entry.path / DETAILS).read_text())
    return found


class TestDirections:
    def test_weights_are_those_of_the_target_modules(self, model: torch.nn.Module) -> None:
        named = {f"model.layers.{layer}.self_attn.{target}.weight" for layer in (0, 1) for target in TARGETS}
        assert set(directions.weights_of(model, TARGETS)) == named
        assert len(directions.weights_of(model)) == len(list(model.parameters()))

    def test_a_random_direction_is_drawn_from_its_seed_and_has_the_weights_norms(self, model: torch.nn.Module) -> None:
        weights = directions.weights_of(model)
        one, same, other = (directions.random_direction(weights, seed) for seed in (5, 5, 6))
        assert all(torch.equal(one[name], same[name]) for name in weights)
        assert not any(torch.equal(one[name], other[name]) for name in weights)
        scaled = directions.layer_normalised(one, weights)
        assert scaled.keys() == {name for name in weights if "norm" not in name}, "norm layers stay"
        for name, tensor in scaled.items():
            assert torch.linalg.norm(tensor) == pytest.approx(float(torch.linalg.norm(weights[name])), rel=1e-5)

    def test_norm_layers_and_biases_stay_whatever_their_names(self) -> None:
        gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2))
        weights = directions.weights_of(gpt2)
        scaled = directions.layer_normalised(directions.random_direction(weights, 0), weights)
        block = {f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
        assert scaled.keys() == {"transformer.wte.weight", "transformer.wpe.weight", *block}
        assert {"transformer.ln_f.weight", "transformer.h.0.ln_1.bias"} <= weights.keys()

    def test_orthogonalised_is_orthogonal_tensor_by_tensor(self, model: torch.nn.Module) -> None:
        weights = directions.weights_of(model, TARGETS)
        x = directions.random_direction(weights, 0)
        y = {name: tensor + 3 * x[name] for name, tensor in directions.random_direction(weights, 1).items()}
        assert directions.cosine(x, y) > 0.9
        free = directions.orthogonalised(y, x)
        for name in weights:
            assert directions.cosine({name: x[name]}, {name: free[name]}) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_alignment_is_aligned_minus_base_as_stored(self, dtype: Any, random_pair: Path, make_job: MakeJob) -> None:
        pair, cpu = Pair(random_pair / "base", random_pair / "aligned", "k", dtype=dtype), torch.device("cpu")
        base, aligned = (directions.weights_of(pair.load(side, cpu, "float32")) for side in ("base", "aligned"))
        ctx = MeasureContext(make_job().cell, pair, {}, cpu, weight_distance)
        weights = directions.weights_of(pair.load("aligned", cpu))
        found, back = (direction_of(name, weights, ctx, 0) for name in ("alignment", str(random_pair / "base")))
        assert found.keys() == back.keys() == weights.keys()
        for name in weights:
            assert torch.equal(found[name], aligned[name] - base[name])
            assert torch.equal(back[name], -found[name])

    @pytest.mark.slow
    def test_an_adapters_update_is_what_merging_it_changes(self, shared_job: MakeJob, random_pair: Path) -> None:
        adapter = sft_adapter(shared_job)
        model = AutoModelForCausalLM.from_pretrained(random_pair / "aligned")
        before = {name: tensor.clone() for name, tensor in directions.weights_of(model).items()}
        update = directions.adapter_update(before, adapter)
        merged = dict(PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().named_parameters())
        assert set(update) == set(directions.weights_of(model, TARGETS))
        for name, tensor in update.items():
            torch.testing.assert_close(tensor, merged[name].detach() - before[name], atol=1e-6, rtol=1e-4)
        assert directions.from_folder(before, adapter, random_pair / "aligned").keys() == update.keys()
        with pytest.raises(ValueError, match="not among the model's weights"):
            directions.adapter_update({}, adapter)


class TestPerturbed:
    def test_points_are_reached_from_the_pristine_copy(self, model: torch.nn.Module) -> None:
        weights = {name: tensor.clone() for name, tensor in directions.weights_of(model, TARGETS).items()}
        x, y = (directions.random_direction(weights, seed) for seed in (0, 1))
        perturbed = Perturbed(model, (x, y))
        for alpha, beta in ((0.3, -0.2), (1e3, 1e3), (0.3, -0.2)):
            perturbed.move(alpha, beta)
            now = directions.weights_of(model, TARGETS)
            for name in weights:
                assert torch.equal(now[name], weights[name] + alpha * x[name] + beta * y[name])
        perturbed.move(0.0, 0.0)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in directions.weights_of(model, TARGETS).items())


class TestSafeStretch:
    @given(ahead=st.floats(0.003, 0.9), behind=st.floats(0.003, 0.9))
    @settings(deadline=None, max_examples=60)
    def test_finds_both_ends_within_the_tolerance(self, ahead: float, behind: float) -> None:
        found = safe_stretch(lambda a: 0.0 if -behind <= a <= ahead else 100.0, threshold=10, limit=1)
        assert found.ahead == pytest.approx(ahead, rel=0.025)
        assert found.behind == pytest.approx(behind, rel=0.025)
        assert found.ahead <= ahead
        assert found.radius == min(found.ahead, found.behind)

    def test_its_limits_its_gaps_and_its_points(self) -> None:
        assert safe_stretch(lambda a: 0.0, threshold=10, limit=0.7).radius == 0.7
        assert safe_stretch(lambda a: 11.0, threshold=10, limit=0.7).radius == 0.0
        found = safe_stretch(lambda a: 100.0 if 0.1 < a < 0.5 else 0.0, threshold=10, limit=1)
        assert found.ahead == pytest.approx(0.1, rel=0.025), "what lies beyond a gap does not count"
        seen: list[float] = []
        found = safe_stretch(lambda a: seen.append(a) or 100 * abs(a), threshold=10, limit=1)  # type: ignore[func-returns-value]
        assert len(seen) == len(set(seen)) == len(found.points), "no point is scored twice"


class TestCosine:
    def test_low_rank_draws_equal_the_matrices_they_stand_for(self) -> None:
        generator = torch.Generator().manual_seed(0)
        direction = {"a": torch.randn(6, 9, generator=generator), "b": torch.randn(5, 4, generator=generator)}
        again, expected = torch.Generator().manual_seed(3), []
        parts: list[list[torch.Tensor]] = [[], [], []]
        for tensor in direction.values():
            for draw in range(3):
                b = torch.randn((tensor.shape[0], 2), generator=again, dtype=torch.float64)
                a = torch.randn((2, tensor.shape[1]), generator=again, dtype=torch.float64)
                parts[draw].append((b @ a).flatten())
        whole = torch.cat([tensor.double().flatten() for tensor in direction.values()])
        expected = [float(torch.nn.functional.cosine_similarity(whole, torch.cat(part), dim=0)) for part in parts]
        assert random_cosines(direction, 2, 3, 3) == pytest.approx(expected)

    def test_the_gaussian_mean_is_exact(self) -> None:
        assert gaussian_mean(1) == pytest.approx(1.0)
        assert gaussian_mean(2) == pytest.approx(2 / math.pi)
        assert gaussian_mean(10**6) == pytest.approx(math.sqrt(2 / (math.pi * 10**6)), rel=1e-5)
        sample = torch.randn(20_000, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert float((sample[:, 0].abs() / sample.norm(dim=1)).mean()) == pytest.approx(gaussian_mean(12), rel=0.02)

    @pytest.mark.slow
    def test_the_measure_equals_the_naive_cosine(self, make_job: MakeJob, random_pair: Path) -> None:
        job = make_job("measure=cosine", "measure.draws=50", "attack.p=1")
        entry = run_cell(job)
        (adapter,) = (path.parent for path in job.options.outputs.glob("stages/train/*/adapter_config.json"))
        weights = directions.weights_of(AutoModelForCausalLM.from_pretrained(random_pair / "aligned"), TARGETS)
        update = directions.adapter_update(weights, adapter)
        alignment = directions.difference(weights, random_pair / "base", random_pair / "aligned")
        flat = [torch.cat([side[name].double().flatten() for name in weights]) for side in (alignment, update)]
        naive = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
        assert entry.result["values"]["cos"] == pytest.approx(naive, rel=1e-9)
        assert 1 / 51 <= entry.result["values"]["p_random"] <= 1


def weight_distance(model: PreTrainedModel, prompts: int) -> Callable[[], float]:
    """Stands for HS: how far the target weights are from where they were, so that each point has its own score."""
    start = {name: tensor.clone() for name, tensor in directions.weights_of(model, TARGETS).items()}

    def score() -> float:
        now = directions.weights_of(model, TARGETS)
        return math.sqrt(sum(float((now[name] - start[name]).double().square().sum()) for name in start))

    return score


class TestPoints:
    """The measures' arithmetic, on a score that depends on the weights (a random pair's refusals do not)."""

    @pytest.fixture
    def ctx(self, make_job: MakeJob, random_pair: Path) -> MeasureContext:
        pair = Pair(random_pair / "base", random_pair / "aligned", "k")
        return MeasureContext(make_job().cell, pair, {}, torch.device("cpu"), weight_distance)

    def test_a_plane_scores_each_point_where_it_says(self, ctx: MeasureContext, model: torch.nn.Module) -> None:
        plane = Plane(x="alignment", y="random", points=5, extent=1.0, normalise="none", seed=7)
        found = plane.measure(ctx).details
        weights = directions.weights_of(model, TARGETS)
        x = directions.difference(weights, ctx.pair.base, ctx.pair.aligned)
        y = directions.random_direction(weights, 8)  # the second direction has a seed of its own
        for row, beta in enumerate(found["steps"]):
            for column, alpha in enumerate(found["steps"]):
                step = sum(float((alpha * x[n] + beta * y[n]).double().square().sum()) for n in weights)
                assert found["hs"][row][column] == pytest.approx(math.sqrt(step), rel=1e-4, abs=1e-5)
        assert found["hs"][2][2] == 0.0, "the centre is the model itself"

    def test_an_orthogonalised_plane_obeys_pythagoras(self, ctx: MeasureContext, model: torch.nn.Module) -> None:
        plane = Plane(x="alignment", y="random", points=3, extent=1.0, orthogonal=True)
        hs = plane.measure(ctx).details["hs"]
        for row, column in ((0, 0), (0, 2), (2, 0), (2, 2)):
            assert hs[row][column] ** 2 == pytest.approx(hs[1][column] ** 2 + hs[row][1] ** 2, rel=1e-4)
        norms = sum(float(w.double().square().sum()) for w in directions.weights_of(model, TARGETS).values())
        assert hs[1][2] == pytest.approx(math.sqrt(norms), rel=1e-4), "one unit is each weight's own norm"

    def test_a_length_is_where_the_score_passes_the_threshold(
        self, ctx: MeasureContext, model: torch.nn.Module
    ) -> None:
        norms = sum(float(w.double().square().sum()) for w in directions.weights_of(model, TARGETS).values())
        found = EPL(direction="alignment", threshold=0.25 * math.sqrt(norms), limit=1.0).measure(ctx)
        assert found.values["ahead"] == pytest.approx(0.25, rel=0.03)
        assert found.values["behind"] == pytest.approx(0.25, rel=0.03)

    def test_lines_sample_different_directions(self, ctx: MeasureContext) -> None:
        found = Lines(along="random", random=2, points=3, normalise="none").measure(ctx).details
        ends = {round(line[0], 4) for line in (found["hs"], *found["random"])}
        assert len(ends) == 3

    @pytest.mark.parametrize(("protocol", "asked"), [("clean", torch.float32), ("official", torch.float16)])
    def test_the_model_is_asked_in_the_protocols_number_format(
        self, protocol: str, asked: torch.dtype, make_job: MakeJob, ctx: MeasureContext
    ) -> None:
        found: list[tuple[torch.dtype, float]] = []

        def recorded(model: PreTrainedModel, prompts: int) -> Callable[[], float]:
            distance = weight_distance(model, prompts)
            return lambda: found.append((model.dtype, distance())) or 0.0

        cell = make_job("attack=none", f"protocol={protocol}").cell
        lines = Lines(along="alignment", random=1, points=3, extent=1.0, normalise="none")
        lines.measure(replace(ctx, cell=cell, score=recorded))
        assert {dtype for dtype, _ in found} == {asked}
        exact = directions.difference(
            directions.weights_of(ctx.pair.load("aligned", torch.device("cpu")), TARGETS),
            ctx.pair.base,
            ctx.pair.aligned,
        )
        step = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in exact.values()))
        assert found[2][1] == pytest.approx(step, rel=1e-3), "the direction itself is not rounded"

    def test_the_smallest_step_reaches_every_weight_of_a_bfloat16_pair(
        self, make_job: MakeJob, random_pair: Path
    ) -> None:
        pair = Pair(random_pair / "base", random_pair / "aligned", "k", dtype="bfloat16")
        cell = make_job("attack=none", "evaluation.dtype=bfloat16").cell
        ctx = MeasureContext(cell, pair, {}, torch.device("cpu"), weight_distance)
        found = Lines(along="random", random=1, points=3, extent=1 / 512).measure(ctx).details
        weights = directions.weights_of(pair.load("aligned", torch.device("cpu"), "float32"), TARGETS).values()
        whole = math.sqrt(sum(float(weight.double().square().sum()) for weight in weights))
        assert found["hs"] == pytest.approx([whole / 512, 0.0, whole / 512], rel=1e-3)

    def test_two_equal_directions_have_no_orthogonal_plane(self, ctx: MeasureContext) -> None:
        with pytest.raises(ValueError, match="y runs along x"):
            Plane(x="alignment", y="alignment", points=3, orthogonal=True).measure(ctx)

    def test_a_tensor_that_runs_along_x_moves_nothing(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = {name: torch.randn(8, 8, generator=generator) for name in "ab"}
        y = {"a": -3.1 * x["a"], "b": torch.randn(8, 8, generator=generator)}
        free = directions.orthogonalised(y, x)
        assert free.keys() == {"b"}
        assert directions.cosine(free, x) == pytest.approx(0, abs=1e-6)

    def test_a_tensor_that_x_leaves_alone_is_kept(self) -> None:
        y = {"a": torch.ones(2), "b": torch.ones(2)}
        free = directions.orthogonalised(y, {"a": torch.zeros(2), "b": torch.tensor([1.0, -1.0])})
        assert all(torch.equal(free[name], y[name]) for name in y)


@pytest.mark.slow
class TestMeasures:
    @pytest.mark.parametrize("orthogonal", [False, True])
    def test_the_centre_of_a_plane_is_the_plain_score(self, shared_job: MakeJob, orthogonal: bool) -> None:
        plain = run_cell(shared_job("method=aligned")).result["metrics"]["HS"]["value"]
        options = ["measure=plane", "measure.points=3", "measure.prompts=10", f"measure.orthogonal={orthogonal}"]
        entry = run_cell(shared_job(*options, "attack.p=1"))
        found: Any = details(entry)
        assert found["steps"] == [-0.5, 0.0, 0.5]
        assert [len(row) for row in found["hs"]] == [3] * 3
        assert found["hs"][1][1] == entry.result["values"]["centre"] == plain

    def test_lines_and_lengths_come_back_whole(self, shared_job: MakeJob) -> None:
        lines = details(
            run_cell(shared_job("measure=lines", "measure.points=3", "measure.random=2", "measure.prompts=4"))
        )
        assert [len(line) for line in lines["random"]] == [3, 3]  # type: ignore[attr-defined]
        entry = run_cell(shared_job("measure=epl", "measure.direction=random", "measure.random=2", "measure.prompts=4"))
        radii = details(entry)["radii"]
        assert isinstance(radii, list)
        assert entry.result["interval"][:2] == [min(radii), max(radii)]
        assert entry.result["values"]["epl"] == pytest.approx(sum(radii) / 2)

    def test_two_runs_agree(self, make_job: MakeJob, shared_job: MakeJob) -> None:
        options = ["measure=plane", "measure.points=3", "measure.prompts=10", "measure.orthogonal=True", "attack.p=1"]
        one, other = (run_cell(made(*options)) for made in (make_job, shared_job))
        assert one.result == other.result
        assert details(one) == details(other)

    def test_keys_hold_what_can_change_a_result_and_nothing_else(self, make_job: MakeJob) -> None:
        def key(*overrides: str, measure: str = "epl") -> str:
            return make_job(f"measure={measure}", *(["measure.prompts=4"] if measure == "epl" else []), *overrides).key

        assert key() == key("method=sft", "training.lr=1", "attack.n=5")  # the alignment direction learns nothing
        assert len({key(), key("measure.threshold=5"), key("measure.direction=harmful")}) == 3
        assert key("measure.direction=harmful") != key("measure.direction=harmful", "attack.n=5")
        random, other = ["measure.update=random"], ["evaluation.n_harmful=9", "attack.n=7"]
        assert key(*random, measure="cosine") == key(*random, *other, measure="cosine")

    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            (["measure=plane", "measure.points=4", "measure.prompts=4"], "measure.points=4: must be odd"),
            (["measure=plane", "measure.prompts=999"], "measure.prompts=999"),
            (["measure=plane", "measure.x=sideways", "measure.prompts=4"], "'sideways' is no direction; allowed: alig"),
            (["measure=epl", "measure.direction=harmful", "training=full"], "training=full"),
            (["measure=epl", "measure.direction=harmful", "attack=none", "attack.p=0"], "attack=none"),
            (["measure=epl", "measure.treshold=3"], "treshold"),
            (["measure=cosine", "model.quantization=8bit"], "measure=cosine: compares and moves the weights"),
        ],
    )
    def test_mistakes_are_told(self, make_job: MakeJob, overrides: list[str], words: str) -> None:
        with pytest.raises(ConfigError) as told:
            make_job(*overrides)
        assert words in str(told.value)

    def test_a_users_own_adapter_is_a_direction(self, shared_job: MakeJob) -> None:
        adapter = sft_adapter(shared_job)
        entry = run_cell(shared_job("measure=plane", f"measure.y={adapter}", "measure.points=3", "measure.prompts=4"))
        assert details(entry)["y"] == str(adapter)
