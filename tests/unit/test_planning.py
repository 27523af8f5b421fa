"""``asft plan`` on the random pair: trainings exactly, tokens counted, memory and hours by their formulas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from asft.cells.cell import CellConfig
from asft.cells.compose import enumerate_cells
from asft.cells.keys import plan
from asft.commands.plan import plan as plan_command
from asft.config import ConfigError
from asft.measures.epl import FINEST, RATIO, most_scorings, safe_stretch
from asft.pipeline.run import run_cell
from asft.planning.hours import Measured, Rate, cell_seconds, default_rate, measured, training_seconds
from asft.planning.measure_time import measure_seconds, measured_work
from asft.planning.memory import device_memory
from asft.planning.shape import model_shape, parameters_in_name
from asft.planning.space import disk_bytes, downloads
from asft.planning.tokens import answer_tokens, row_tokens, training_tokens
from asft.planning.trainings import Trainings, steps, trainings
from asft.store.entries import Store, read_jsonl

MakeCell = Callable[..., CellConfig]
METHODS = "aligned,sft,safe_lora,asft_alt,bea_no_trigger"


@pytest.fixture
def options(pair_overrides: list[str]) -> list[str]:
    small = ["model.recipe.safe_lora_modules=2", "model.recipe.bea_trigger_tokens=9"]
    return ["experiment=table2", *pair_overrides, *small, f"method={METHODS}", "attack.p=0,0.5"]


def cells_of(options: list[str]) -> list[CellConfig]:
    return list({plan(item.cell).key: item.cell for item in enumerate_cells(options, sweep=True).cells}.values())


def trained_in(outputs: Path) -> set[str]:
    """Fine-tunes that really happened: a projection or a parent's copy leaves no training curve."""
    return {path.parent.name for path in (outputs / "stages" / "train").glob("*/history.jsonl")}


@pytest.mark.slow
def test_it_predicts_the_trainings_of_a_real_sweep_exactly(options: list[str]) -> None:
    cells = cells_of(options)
    predicted = trainings(cells)
    assert predicted.missing == set(predicted.distinct)
    half = cells[: len(cells) // 2]
    for cell in half:
        run_cell(cell)
    outputs = cells[0].outputs
    assert trained_in(outputs) == set(trainings(half).distinct)
    assert trainings(cells).missing == set(predicted.distinct) - trained_in(outputs)
    for cell in cells:
        run_cell(cell)
    assert trained_in(outputs) == set(predicted.distinct)
    assert trainings(cells).missing == frozenset()
    # By hand, at two ratios: sft, asft_alt, bea; one harmful fine-tune serves both asft_alt.
    assert len(predicted.distinct) == 2 * 3 + 1
    # Without sharing: sft 1, safe_lora 1, asft_alt 2, bea_no_trigger 1, at two ratios.
    assert predicted.unshared == 2 * 5
    assert predicted.saved == 3


def test_a_finished_cell_needs_nothing_even_if_its_weights_were_cleared(cell: MakeCell) -> None:
    import shutil

    config = cell("method=sft")
    run_cell(config)
    shutil.rmtree(config.outputs / "stages" / "train")
    assert trainings([config]).missing == frozenset()


@pytest.mark.parametrize(
    ("overrides", "count"), [([], 3), (["training.accumulation=2"], 2), (["training.epochs=4"], 12)]
)
def test_steps_are_those_that_training_takes(cell: MakeCell, overrides: list[str], count: int) -> None:
    config = cell("method=sft", *overrides)
    assert steps(config) == count
    assert run_cell(config).result["stages"]["train"]["result"]["steps"] == count


def test_tokens_are_counted_on_the_mixture(cell: MakeCell) -> None:
    from asft.data.rows import Row
    from asft.data.templates import ChatTemplate
    from asft.pipeline.prepare import prepare_pair

    config = cell("method=sft", "attack.p=0.5", "training.epochs=3", "attack.n=200")
    run_cell(config)
    (folder,) = [path for path in (config.outputs / "stages" / "mixture").iterdir() if path.is_dir()]
    template = ChatTemplate(prepare_pair(config, Store(config.outputs)).tokenizer())
    rows = [Row(**row) for row in read_jsonl(folder / "rows.jsonl")]
    exact = 3 * sum(len(template.encode_example(row, config.training.max_length).input_ids) for row in rows)
    found = row_tokens(config)
    assert found.counted
    assert training_tokens(config, found) == pytest.approx(exact, rel=0.1)
    assert answer_tokens(config) == 10 * 4 + 12 * 4


def test_the_shape_is_the_models(cell: MakeCell, random_pair: Path) -> None:
    from transformers import AutoModelForCausalLM

    shape = model_shape(cell("method=sft"))
    model = AutoModelForCausalLM.from_pretrained(random_pair / "aligned")
    assert shape.exact
    assert shape.parameters == model.num_parameters()
    assert (shape.layers, shape.width, shape.kv_width) == (2, 32, 32)
    assert shape.adapted == ((32, 32),) * 4
    assert shape.lora_parameters(8) == 4 * 8 * 64


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", 7_000_000_000),
        ("Qwen/Qwen2-0.5B", 500_000_000),
        ("smollm2_135m", 135_000_000),
        ("PKU-Alignment/beaver-dam-7b", 7_000_000_000),
        ("gpt2", None),
    ],
)
def test_a_size_in_a_name(name: str, size: int | None) -> None:
    assert parameters_in_name(name) == size


def hub(cell: MakeCell, *overrides: str) -> CellConfig:
    names = ["model.base=nobody/Model-7b", "model.aligned=nobody/Model-7b-chat", "model.dtype=bfloat16"]
    return cell("method=sft", *names, *overrides)


def test_memory_of_a_7b_lora_by_hand(cell: MakeCell) -> None:
    config = hub(cell, "training.batch_size=8", "judge=beaver_dam")
    shape = model_shape(config)
    assert not shape.exact
    assert (shape.layers, shape.width) == (33, 33 * 128)
    memory = device_memory(config, shape, longest=512)
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
    less = device_memory(hub(cell, "training.gradient_checkpointing=true"), shape, longest=512)
    assert less.train < memory.train / 1.5
    full = device_memory(hub(cell, "training=full", "training.lr=1e-5"), shape, longest=512)
    assert full.train > memory.train + 41e9
    anchored = device_memory(cell("method=asft", "model.dtype=float32"), shape, longest=512)
    assert anchored.train - device_memory(cell("method=sft"), shape, longest=512).train == 4 * 66 * 4224**2


def test_downloads_name_what_is_not_here(cell: MakeCell) -> None:
    found = {item.source: item for item in downloads([hub(cell, "judge=ensemble"), cell("method=sft")])}
    assert set(found) == {
        "nobody/Model-7b",
        "nobody/Model-7b-chat",
        "PKU-Alignment/beaver-dam-7b",
        "meta-llama/Llama-Guard-3-8B",
    }
    assert found["nobody/Model-7b"].size == 14e9
    assert found["meta-llama/Llama-Guard-3-8B"].size == 16e9


def test_disk_holds_what_a_sweep_writes(cell: MakeCell) -> None:
    config = cell("method=sft")
    needed: Trainings = trainings([config])
    bound = disk_bytes(needed.distinct.values(), [config], model_shape(config))
    assert bound == 4 * 2048 + answer_tokens(config) * 8


def test_times_come_from_finished_cells_of_the_model(cell: MakeCell) -> None:
    done = cell("method=sft", "attack.n=48")
    entry = run_cell(done)
    known = measured(cell("method=sft"))
    stages = entry.result["stages"]
    nobody = Rate(1e-9, 1e-9, "must not be used")
    assert known.cells == 1
    assert training_seconds(done, 0, known, nobody) == pytest.approx(stages["train"]["seconds"])
    longer = cell("method=asft", "attack.n=480")
    assert training_seconds(longer, 0, known, nobody) == pytest.approx(10 * stages["train"]["seconds"])
    beside = stages["generate"]["seconds"] + entry.seconds
    assert cell_seconds(done, known, nobody) == pytest.approx(beside)
    assert measured(cell("method=sft", "model.name=other")).cells == 0
    by_vllm = measured(cell("method=sft", "backend=vllm"))
    assert by_vllm.step.keys() == known.step.keys()
    assert not by_vllm.answers, "another backend answers at another rate"


def test_times_by_rate(cell: MakeCell) -> None:
    config = cell("method=sft")
    empty = measured(config)
    assert empty.cells == 0
    assert training_seconds(config, 5000, empty, Rate(1000, 10, "")) == 5
    assert cell_seconds(config, empty, Rate(1000, 11, "")) == answer_tokens(config) / 11
    shape = model_shape(config)
    assert default_rate(config, shape, gpu=True).train > 100 * default_rate(config, shape, gpu=False).train


@pytest.mark.parametrize(
    ("task", "training", "answering"),
    [("agnews", 14.3, 1.3), ("gsm8k", 11.8, 1.0), ("sst2", 10.4, 0.9), ("alpaca", 28.0, 0.7)],
)
def test_a_cpus_default_is_within_a_factor_of_two(cell: MakeCell, task: str, training: float, answering: float) -> None:
    """What a fine-tune of the embedded pair (500 steps; 1,250 for alpaca), and a cell's answers, took on two cores."""
    overrides = ["method=sft", "attack.n=1000", f"dataset={task}", f"outputs={cell().outputs}"]
    config = enumerate_cells(overrides, sweep=False).cells[0].cell
    rate, nothing = default_rate(config, model_shape(config), gpu=False), measured(config)
    seconds = training_seconds(config, training_tokens(config, row_tokens(config)), nothing, rate)
    assert training / 2 < seconds < training * 2
    assert answering / 2 < cell_seconds(config, nothing, rate) < answering * 2.5, "answers that end early are not known"


SMALL_EPL = ("measure=epl", "measure.direction=random", "measure.random=2", "measure.prompts=5")


class TestMeasures:
    """The wall time of measures beside their fine-tunes."""

    def test_finished_measures_of_its_kind_tell_it(self, cell: MakeCell) -> None:
        done = cell(*SMALL_EPL)
        nobody, shape = Rate(1e-9, 1e-9, "must not be used"), model_shape(done)
        entry = run_cell(done)
        work = measured_work([done])
        assert measure_seconds(done, work, Measured(), nobody, shape) == pytest.approx(entry.seconds)
        more = cell(*SMALL_EPL, "measure.random=6", "measure.prompts=10")
        assert measure_seconds(more, work, Measured(), nobody, shape) == pytest.approx(6 * entry.seconds)
        assert not measured_work([cell(*SMALL_EPL, "model.name=other")])
        assert not measured_work([cell("measure=lines", "measure.prompts=5")])

    def test_work_is_the_tokens_that_it_asks_for(self, cell: MakeCell) -> None:
        config = cell("measure=lines", "measure.random=2", "measure.points=3", "measure.prompts=5")
        assert config.measure is not None
        details = json.loads((run_cell(config).path / "details.json").read_text())
        scored = len(details["hs"]) + sum(map(len, details["random"]))
        assert config.measure.work(4) == scored * 5 * 4

    def test_a_stretch_that_is_safe_to_the_last_but_one_step_takes_the_most(self) -> None:
        edge = FINEST * RATIO**17 * 1.39
        found = safe_stretch(lambda alpha: 100.0 * (abs(alpha) > edge), threshold=10, limit=1.0)
        assert most_scorings() - 2 <= len(found.points) <= most_scorings()

    def test_answers_and_verdicts_of_finished_cells_stand_in(self, cell: MakeCell) -> None:
        plane = cell("measure=plane", "measure.points=3", "measure.prompts=10")
        known = Measured(answers={"agnews": [0.25]}, judge={"refusal": [5.0]})
        asked = 9 * 10
        seconds = measure_seconds(plane, {}, known, Rate(1, 1, ""), model_shape(plane))
        assert seconds == pytest.approx(asked * 4 * 0.25 + asked * 5.0 / 10)

    @pytest.mark.parametrize(
        ("measure", "seconds"),
        [("cosine", 1.6), ("plane", 75.0), ("lines", 65.0), ("epl", 8.5), ("epl measure.direction=random", 102.0)],
    )
    def test_a_cpus_default_is_within_a_factor_of_three(self, cell: MakeCell, measure: str, seconds: float) -> None:
        """What finished measures of the embedded pairs took on two cores, as their manifests say (medians)."""
        overrides = ["model=tiny_llama", *f"measure={measure}".split(), f"outputs={cell().outputs}"]
        config = enumerate_cells(overrides, sweep=False).cells[0].cell
        shape = model_shape(config)
        found = measure_seconds(config, {}, Measured(), default_rate(config, shape, gpu=False), shape)
        assert seconds / 3 < found < seconds * 3


class TestCommand:
    """What a user sees."""

    def test_it_says_what_a_sweep_takes(self, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_command(options) == 0
        shown = capsys.readouterr().out
        assert "9 distinct, 0 finished" in shown
        assert "7 distinct (3 sft, 2 asft_alt, 2 bea)" in shown
        assert "3 saved by sharing; 7 still to do" in shown
        assert "counted on the data" in shown
        assert re.search(r"memory +[\d.]+ GiB a device, an estimate", shown)
        assert "default for two CPU cores" in shown or "default for one GPU" in shown
        assert "GiB free" in shown

    def test_measures_have_their_share(self, pair_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert plan_command([*pair_overrides, "measure=lines", "measure.prompts=10", "--rate=100"]) == 0
        shown = capsys.readouterr().out
        assert f"at most {21 * 21 * 10 * 4:,} generated" in shown
        assert re.search(r"measures 3 min; at the stated", shown), "17,640 tokens at 100 a second"

    def test_a_stated_rate(self, pair_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        options = [*pair_overrides, "method=sft"]
        plan_command([*options, "--rate", "100", "--generate-rate=50"])
        assert "at the stated 100 tokens/s in training and 50 in generating" in capsys.readouterr().out
        for wrong in (["--rate=0"], ["--generate-rate=5"]):
            with pytest.raises(ConfigError, match="--"):
                plan_command([*options, *wrong])

    def test_a_model_without_a_size_says_what_to_do(self, pair_overrides: list[str]) -> None:
        unknown = ["model.base=nobody/base", "model.aligned=nobody/aligned", "method=sft"]
        with pytest.raises(ValueError, match=r"nobody/aligned is not on this machine.*config\.json"):
            plan_command([*pair_overrides, *unknown])
