"""``asft plan`` on the random pair: trainings exactly, memory and disk by their formulas, time from finished cells."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from helpers import MakeJob

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.commands.plan import plan as plan_command
from asft.pipeline.run import run_cell
from asft.planning.size import device_memory, disk_bytes, downloads, model_shape, parameters_in_name, training_flops
from asft.planning.trainings import answer_tokens, learned, seconds_left, steps, trainings

pytestmark = pytest.mark.slow


AXES = ["method=aligned,sft,safe_lora,asft_alt", "attack.p=0,0.5"]


@pytest.fixture
def options(pair_overrides: list[str]) -> list[str]:
    return ["experiment=table2", *pair_overrides, "model.recipe.safe_lora_modules=2", *AXES]


def jobs_of(options: list[str]) -> list[Job]:
    return list({job.key: job for job in enumerate_cells(options, sweep=True).cells}.values())


def trained_in(outputs: Path) -> set[str]:
    """Fine-tunes that really happened: a projection or a parent's copy leaves no training curve."""
    return {path.parent.name for path in (outputs / "stages" / "train").glob("*/history.jsonl")}


def test_it_predicts_the_trainings_of_a_real_sweep_exactly(options: list[str]) -> None:
    jobs = jobs_of(options)
    predicted = trainings(jobs)
    assert predicted.missing == set(predicted.distinct)
    half = jobs[: len(jobs) // 2]
    for job in half:
        run_cell(job)
    outputs = jobs[0].options.outputs
    assert trained_in(outputs) == set(trainings(half).distinct)
    assert trainings(jobs).missing == set(predicted.distinct) - trained_in(outputs)
    for job in jobs:
        run_cell(job)
    assert trained_in(outputs) == set(predicted.distinct)
    assert trainings(jobs).missing == frozenset()
    # By hand, at two ratios: sft, asft_alt; one harmful fine-tune serves both asft_alt.
    assert len(predicted.distinct) == 2 * 2 + 1
    # Without sharing: sft 1, safe_lora 1, asft_alt 2, at two ratios.
    assert predicted.unshared == 2 * 4
    assert predicted.saved == 3


def test_a_finished_cell_needs_nothing_even_if_its_weights_were_cleared(make_job: MakeJob) -> None:
    job = make_job("method=sft")
    run_cell(job)
    shutil.rmtree(job.options.outputs / "stages" / "train")
    assert trainings([job, make_job("method=sft", "+judge.phrases=[No]")]).missing == frozenset()


@pytest.mark.parametrize(
    ("overrides", "count"), [([], 3), (["training.accumulation=2"], 2), (["training.epochs=4"], 12)]
)
def test_steps_are_those_that_training_takes(shared_job: MakeJob, overrides: list[str], count: int) -> None:
    job = shared_job("method=sft", *overrides)
    assert steps(job.cell) == count
    assert run_cell(job).result["stages"]["train"]["result"]["steps"] == count


def test_the_shape_is_the_models(make_job: MakeJob, random_pair: Path) -> None:
    from transformers import AutoModelForCausalLM

    shape = model_shape(make_job("method=sft"))
    assert shape is not None
    model = AutoModelForCausalLM.from_pretrained(random_pair / "aligned")
    assert shape.exact
    assert shape.parameters == model.num_parameters()
    assert (shape.layers, shape.width, shape.kv_width) == (2, 32, 32)
    assert shape.vocabulary == model.config.vocab_size
    assert shape.adapted == ((32, 32),) * 4
    assert shape.lora_parameters(8) == 4 * 8 * 64


def test_a_size_in_a_name() -> None:
    sizes = {"meta-llama/Llama-2-7b-chat-hf": 7e9, "Qwen/Qwen2-0.5B": 5e8, "smollm2_135m": 135e6, "gpt2": None}
    assert {name: parameters_in_name(name) for name in sizes} == sizes


def hub(make_job: MakeJob, *overrides: str) -> Job:
    names = ["model.base=nobody/Model-7b", "model.aligned=nobody/Model-7b-chat", "model.dtype=bfloat16"]
    return make_job("method=sft", *names, *overrides)


def test_memory_of_a_7b_lora_by_hand(make_job: MakeJob) -> None:
    row = "training.max_length=512"
    job = hub(make_job, "training.batch_size=8", row, "judge=beaver_dam")
    shape = model_shape(job)
    assert shape is not None
    assert not shape.exact
    assert (shape.layers, shape.width) == (33, 33 * 128)
    memory = device_memory(job.cell, shape)
    tokens = 8 * 512
    by_hand = (
        2**30  # context
        + 14e9  # weights
        + 16 * 8 * 66 * 2 * 4224  # LoRA
        + 34 * tokens * 4224 * 33  # activations
        + tokens * 32_000 * 10  # logits
    )
    assert memory.train == pytest.approx(by_hand)
    assert memory.judge == pytest.approx(2**30 + 14e9)
    assert memory.peak == memory.train
    less = device_memory(hub(make_job, row, "training.gradient_checkpointing=true").cell, shape)
    assert less.train < memory.train / 1.5
    official = device_memory(hub(make_job, "training.batch_size=8", row, "protocol=official").cell, shape)
    twice = 14e9 + 34 * tokens * 4224 * 33 + tokens * 32_000 * 2
    assert official.train == pytest.approx(by_hand + twice), "its weights are float32 in training"
    words = row, "protocol=official", "dataset=sst2"
    assert device_memory(hub(make_job, *words).cell, shape).generate > official.generate + 14e9, "and where it answers"
    full = device_memory(hub(make_job, row, "training=full", "training.lr=1e-5", "model.dtype=float32").cell, shape)
    assert full.train > 16 * 7e9
    anchored = device_memory(make_job("method=asft").cell, shape)
    assert anchored.train - device_memory(make_job("method=sft").cell, shape).train == 4 * 66 * 4224**2
    disguised = (
        device_memory(hub(make_job, "jailbreak=dra").cell, shape).generate
        - device_memory(hub(make_job).cell, shape).generate
    )
    assert disguised == 2 * 33 * 4224 * 2 * job.cell.evaluation.batch_size * (2048 - 256)


def test_downloads_name_what_is_not_here(make_job: MakeJob) -> None:
    jobs = hub(make_job, "judge=ensemble"), make_job("method=sft")
    assert {item.source: item.size for item in downloads(job.cell for job in jobs)} == {
        **dict.fromkeys(("nobody/Model-7b", "nobody/Model-7b-chat", "PKU-Alignment/beaver-dam-7b"), 14e9),
        "meta-llama/Llama-Guard-3-8B": 16e9,
    }


def test_disk_holds_what_a_sweep_writes(make_job: MakeJob) -> None:
    job = make_job("method=sft")
    shape = model_shape(job)
    assert shape is not None
    bound = disk_bytes(list(trainings([job]).distinct.values()), [job.cell], shape)
    assert bound == 4 * 2048 + (10 * 4 + 12 * 4) * 8


class TestTime:
    """Learned from finished cells of the model, or not known."""

    def left(self, job: Job, known: Job | None = None) -> dict[str, float | None]:
        return seconds_left([job.cell], [job.cell], learned(known or job)[0])

    def test_it_is_that_of_finished_cells_of_the_model(self, make_job: MakeJob) -> None:
        done = make_job("method=sft", "attack.n=48")
        entry = run_cell(done)
        stages = entry.result["stages"]
        beside = pytest.approx(stages["answers HS"]["seconds"] + stages["answers FA"]["seconds"] + entry.seconds)
        assert learned(done)[1] == 1
        training = pytest.approx(stages["train"]["seconds"])
        assert self.left(done) == {"training": training, "answers and verdicts": beside}
        longer = make_job("method=asft", "attack.n=480", "model.recipe.defender_rows=7")  # a recipe is no model
        assert self.left(longer)["training"] == pytest.approx(10 * stages["train"]["seconds"])
        assert learned(make_job("model.name=other")) == ({}, 0)
        assert self.left(make_job("training=full", "method=sft"))["training"] is None, "another kind of training"
        by_vllm = self.left(make_job("method=sft", "backend=vllm"))
        assert by_vllm["training"] is not None
        assert by_vllm["answers and verdicts"] is None, "another backend answers at another rate"

    def test_repairs_and_shared_stages_count_once(self, make_job: MakeJob) -> None:
        parent, repaired = make_job("method=sft"), make_job("method=safe_lora", "method.number=2")
        run_cell(parent)
        entry = run_cell(repaired)
        known, count = learned(repaired)
        assert count == 2
        assert known["repair", "safe_lora"] == [entry.result["stages"]["train"]["seconds"]]
        assert len(known["step", "sft"]) == 1
        found = seconds_left([], [repaired.cell], known)
        assert found.keys() == {"answers and verdicts"}
        tokens = answer_tokens(repaired.plain()) * sum(known["token", "agnews"]) / 2
        verdicts = sum(known["judge", "refusal"]) / 2
        assert found["answers and verdicts"] == pytest.approx(tokens + known["repair", "safe_lora"][0] + verdicts)

    def test_a_measure_takes_what_others_of_its_kind_took(self, make_job: MakeJob) -> None:
        small = ("measure=epl", "measure.direction=random", "measure.random=2", "measure.prompts=5")
        done, other = make_job(*small), make_job("measure=lines", "measure.prompts=5")
        assert seconds_left([], [done.cell], learned(done)[0]) == {"measures": None}
        entry = run_cell(done)
        assert seconds_left([], [done.cell], learned(done)[0]) == {"measures": pytest.approx(entry.seconds)}
        assert seconds_left([], [done.cell, other.cell], learned(done)[0]) == {"measures": None}, "lines are not known"


def test_a_70b_lora_on_eight_gpus_by_hand(make_job: MakeJob) -> None:
    names = ["model.base=nobody/Model-70b", "model.aligned=nobody/Model-70b-chat", "model.dtype=bfloat16"]
    job = make_job("method=asft", *names, "training.batch_size=8", "training.max_length=512")
    shape = model_shape(job)
    assert shape is not None
    alone, shared = (device_memory(job.cell, shape, gpus).train for gpus in (1, 8))
    kept = 34 * 512 * shape.width * shape.layers + 512 * 32_000 * 10  # one row's activations and logits
    parts = alone - 2**30 - 8 * kept
    assert shared == pytest.approx(2**30 + parts / 8 + 2 * 140e9 / shape.layers + kept)
    assert shared < 80e9 < alone / 2
    rows = steps(job.cell) * job.cell.training.accumulation * 8
    assert training_flops(job.cell, shape) == pytest.approx(4 * 70e9 * rows * 512)


class TestCommand:
    """What a user sees."""

    def test_it_says_what_a_sweep_takes(self, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_command(options) == 0
        shown = capsys.readouterr().out
        assert "7 distinct, 0 finished" in shown
        assert "5 distinct (3 sft, 2 asft_alt)" in shown
        assert "3 saved by sharing; 5 still to do" in shown
        assert re.search(r"memory +about [\d.]+ GiB a device", shown)
        assert re.search(r"time +not known yet; once a cell of this model is finished, it is", shown)
        assert "GiB free" in shown
        assert plan_command([*options, "--gpus", "8", "--tflops", "400"]) == 0
        shown = capsys.readouterr().out
        assert re.search(r"8 GPUs +a training sharded .* of each; 5 fine-tunes take .* at 400 TFLOP/s", shown)
        run_cell(jobs_of(options)[1])
        assert plan_command([*options, "--gpus", "1,1000"]) == 0
        shown = capsys.readouterr().out
        assert re.search(r"1 GPU .* bound by how much there is to do", shown)
        assert re.search(r"1000 GPUs .* bound by the longest cell", shown)
        assert re.search(r"time +about .* \(training \d+ s, answers and verdicts \d+ s; as 1 finished", shown)

    def test_a_model_without_a_size_is_told(
        self, pair_overrides: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert plan_command([*pair_overrides, "model.base=nobody/base", "model.aligned=nobody/aligned"]) == 0
        shown = capsys.readouterr().out
        assert "its size is not known until it is here" in shown
        assert "memory" not in shown
        assert "nobody/aligned for model.aligned, size unknown" in shown
