"""Every experiment of the paper: one small cell of each runs, and its report is written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from asft.cells.compose import Sweep, config_dir, enumerate_cells
from asft.commands.report import report_sweep
from asft.models.organism.build import ARCHITECTURES, fresh_model
from asft.pipeline.run import run_cell
from asft.report.collect import analysis_of

# Those of a real model need its data, and differ from the others in size alone.
# What a random two-layer pair can hold: fewer modules, ranks and tokens.
SMALL = {
    "method": {
        "safe_lora": ["method.number=2"],
        "asft_projector": ["method.rank=4"],
        "bea": ["method.trigger_tokens=9", "method.safety=4"],
        "guard_space_random": ["method.harmful=8", "method.tolerance=1e-3"],
    },
    "measure": {
        "cosine": ["measure.draws=20"],
        "plane": ["measure.points=3", "measure.prompts=4"],
        "lines": ["measure.points=3", "measure.prompts=4", "measure.random=2"],
        "epl": ["measure.prompts=4", "measure.random=2"],
    },
}


# Those of several sweeps are no tables; tests/unit/test_frontier.py has them.
FILES = {path.stem: path.read_text() for path in sorted((config_dir() / "experiment").glob("*.yaml"))}
CUTS = config_dir() / "cut" / "smollm2_135m"
EXPERIMENTS = {name: text for name, text in FILES.items() if "sweeps:" not in text}


def every_cell(experiment: str, *more: str) -> Sweep:
    sweep = enumerate_cells([f"experiment={experiment}", *more], sweep=True)
    assert len(sweep.cells) == math.prod(len(values) for values in sweep.axes.values()) > 1
    return sweep


def one_cell(experiment: str, shared_overrides: list[str]) -> tuple[Sweep, list[str]]:
    """The experiment cut to the last value of each axis, on the small pair."""
    sweep = every_cell(experiment)
    cell = sweep.cells[-1].cell
    axes = {axis: values[-1] for axis, values in sweep.axes.items() if axis != "model"}
    kept = [text for text in shared_overrides if text.partition("=")[0] not in axes]
    small = SMALL["measure"].get(cell.measure.name, []) if cell.measure else SMALL["method"].get(cell.method.name, [])
    if "attack.n" in axes:
        axes["attack.n"] = "24"
    overrides = [f"experiment={experiment}", *kept, *(f"{axis}={value}" for axis, value in axes.items()), *small]
    if cell.training.name == "lora" and "training.lr" not in axes:
        overrides.append("training.lr=1e-3")
    overrides = list(dict.fromkeys(overrides))
    return enumerate_cells(overrides, sweep=True), overrides


# Those of a real model need its data, and differ from the others in size alone.
@pytest.mark.slow
@pytest.mark.parametrize("experiment", [name for name, text in EXPERIMENTS.items() if "smollm2_135m" not in text])
def test_one_small_cell_runs_and_is_reported(
    experiment: str, shared_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, overrides = one_cell(experiment, shared_overrides)
    (job,) = sweep.cells
    entry = run_cell(job)
    assert report_sweep(sweep, overrides) == 0
    written = Path(capsys.readouterr().out.strip().rpartition("Page: ")[2]).parent
    (page,) = written.glob("data/tables/*.js")
    assert job.experiment is not None
    assert job.experiment.title.partition(":")[0] in page.read_text()
    (record,) = analysis_of(sweep, "").results
    kept = entry.result["values"] if job.cell.measure else {"HS": entry.result["metrics"]["HS"]["value"]}
    shown = {name: value.value for name, value in record.metrics.items()} | record.extra
    assert kept.items() <= shown.items()


@pytest.mark.slow
def test_tables_that_are_cut_for_a_real_model_share_cells(published: Path) -> None:
    data, keys = ["method=sft", "attack=harmful", f"data.root={published}"], {}
    for name in ("demo_real", "jailbreaks"):
        assert enumerate_cells([f"experiment={name}", *data], sweep=True).cells[0].cell.model.name == CUTS.name
    for name in (path.stem for path in CUTS.glob("*.yaml")):
        assert name in EXPERIMENTS, "a cut of no experiment would be passed over in silence"
        cells = enumerate_cells([f"experiment={name}", f"cut={CUTS.name}", *data], sweep=True).cells
        assert {job.cell.model.name for job in cells} == {CUTS.name}
        assert {job.cell.dataset.name for job in cells if "FA" not in job.cell.metrics} <= {"alpaca"}
        assert not any(job.cell.graded for job in cells), "nothing here needs a grader"
        if cells[0].cell.measure is None:
            keys[name] = {job.key for job in cells}
    assert len(keys) >= 7
    assert len(set.intersection(*keys.values())) == 1


def test_the_papers_tables_and_figures_are_all_there() -> None:
    tables = {f"table{number}" for number in range(1, 9)}
    assert {*tables, "fig1", "fig3", "fig4a", "fig4b", "fig4c", "full", "ratios"} <= EXPERIMENTS.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_method_of_the_field_is_a_whole_cell_on_each_architecture(
    architecture: str, random_pair: Path, shared_overrides: list[str], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_pair / "aligned")
    for seed, side in enumerate(("base", "aligned")):
        torch.manual_seed(seed)
        for part in (fresh_model(architecture, tokenizer), tokenizer):
            part.save_pretrained(tmp_path / side)
    few = ["defender_rows=8", "lisa_steps=[1,2]", "safe_lora_modules=4", "bea_trigger_tokens=9"]
    recipe = [*few, "safe_merge_threshold=1.1", "guard_space_tolerance=1e-3"]  # so that each has something to act on
    sweep = every_cell(
        "field",
        *shared_overrides,
        f"model.base={tmp_path / 'base'}",
        f"model.aligned={tmp_path / 'aligned'}",
        f"outputs={tmp_path / 'outputs'}",
        *(f"model.recipe.{setting}" for setting in recipe),
    )
    failed = {}
    for job in sweep.cells:
        try:
            assert {"HS", "FA"} <= run_cell(job).result["metrics"].keys()
        except Exception as error:
            failed[job.cell.method.name] = repr(error)
    assert not failed
