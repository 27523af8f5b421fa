"""From a sweep's cells to what a report is made of: records of finished cells, and what is not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from asft.cells.cell import CellConfig
from asft.cells.compose import Sweep, SweepCell
from asft.cells.keys import plan, store_kind
from asft.config import GRADED_TASKS, ConfigError, ExperimentConfig, OrganismModel, PretrainedModel
from asft.data.sources import HUB, published_folder
from asft.report.judge_notes import judge_notes
from asft.report.paper import paper_tables
from asft.report.records import Cell, CellRecord, Column, MissingCell, TableSpec
from asft.store.entries import HARMFUL_FILE, TASK_FILE, Entry, Store, read_jsonl
from asft.store.provenance import library_versions

_PAPER_MODEL = "Llama-2-7B-Chat"
_PAPER_NAMES = {"llama2_7b", "llama3_8b", "qwen2_7b", "gemma2_9b"}
# Which of the paper's models an embedded pair stands in for, in Tables 6 and 7.
PAPER_MODELS = {
    "tiny_llama": "Llama-2-7B-Chat",
    "tiny_llama_gqa": "Llama-3-8B-Instruct",
    "tiny_qwen2": "Qwen-2-7B-Instruct",
    "tiny_gemma2": "Gemma-2-9B-IT",
}
_PAPER_PROMPTS = 250
_SHARED_WITH_SAFETY_ROWS = 0.2  # the ratio whose AG News file the alignment prompts are taken from


def experiment_of(sweep: Sweep) -> ExperimentConfig:
    """The experiment that a command line names.

    Raises:
        ConfigError: when it names none.
    """
    experiment = sweep.cells[0].cell.experiment
    if experiment is None:
        raise ConfigError("experiment: name one, e.g. experiment=table2; a report is laid out by its YAML")
    return experiment


def records(sweep: Sweep) -> list[Cell]:
    """One record a distinct cell and column; a control that does not depend on the column comes once."""
    experiment = experiment_of(sweep)
    found: dict[tuple[str, str | None], Cell] = {}
    shared = column_free(sweep, _method, experiment.columns)
    for item in sweep.cells:
        key = plan(item.cell).key
        column = None if _method(item) in shared else item.axes.get(experiment.columns)
        found.setdefault((key, column), _record(item, key, column, experiment.columns))
    return list(found.values())


def table_spec(sweep: Sweep, command: str) -> TableSpec:
    """The layout of an experiment's table, from its YAML and the sweep's axes."""
    experiment = experiment_of(sweep)
    methods = {item.cell.method.name: item.cell.method.label for item in sweep.cells}
    if experiment.columns not in sweep.axes:
        raise ConfigError(f"experiment.columns={experiment.columns}: not an axis; allowed: {', '.join(sweep.axes)}")
    check_paper_table(experiment)
    return TableSpec(
        name=experiment.name,
        title=experiment.title,
        column_axis=experiment.columns,
        column_title=experiment.column_title,
        columns=columns_of(sweep, experiment),
        methods=methods,
        controls=tuple(name for name in experiment.controls if name in methods),
        paper_table=experiment.paper_table,
        notes=(*differences(sweep), *judge_notes(sweep)),
        command=command,
        versions=library_versions(),
    )


def check_paper_table(experiment: ExperimentConfig) -> None:
    """Raises ConfigError where the experiment names a table that the paper's figures do not hold."""
    tables = [name for name in paper_tables() if name.startswith("table")]
    if experiment.paper_table is not None and experiment.paper_table not in tables:
        raise ConfigError(
            f"experiment.paper_table={experiment.paper_table}: unknown. Allowed: {', '.join(tables)}, or null"
        )


def differences(sweep: Sweep) -> list[str]:
    """What sets a sweep apart from the paper's setting, in plain words, one sentence each.

    Every cell is looked at: what the columns themselves change (n, the task, the model) is no difference.
    """
    cells = [item.cell for item in sweep.cells]
    each = [note for cell in cells for note in (*_setting_differences(cell), *_recipe_differences(cell))]
    return list(dict.fromkeys([*_model_differences(cells), *each]))


def measure_differences(sweep: Sweep) -> list[str]:
    """The same for cells that measure, which train nothing of the paper's."""
    cells = [item.cell for item in sweep.cells]
    asked = [note for cell in cells if cell.measure and cell.measure.asks for note in _setting_differences(cell)]
    return list(dict.fromkeys([*_model_differences(cells), *asked]))


def _model_differences(cells: Sequence[CellConfig]) -> list[str]:
    """The models of all cells in one sentence for each kind."""
    models = {cell.model.name: cell for cell in cells}
    notes = []
    embedded = [name for name, cell in models.items() if isinstance(cell.model, OrganismModel)]
    if embedded:
        pairs = ", ".join(f"{name} in place of {PAPER_MODELS.get(name, _PAPER_MODEL)}" for name in embedded)
        notes.append(
            f"Model: {pairs}; embedded, about one million parameters, trained on a synthetic world. Task, attack and "
            "prompts are that world's twins and hold no real harmful text."
        )
    for name, cell in models.items():
        if name not in embedded and not (isinstance(cell.model, PretrainedModel) and name in _PAPER_NAMES):
            notes.append(f"Model: {name} in place of {_PAPER_MODEL}.")
        if name not in embedded and cell.data.root is None:
            notes.append(f"Data of {name}: the embedded world's rows and prompts (data.root is null), not the paper's.")
    return notes


def _setting_differences(cell: CellConfig) -> list[str]:
    """Judge, protocol, mixture and prompts of one cell against the paper's."""
    notes = []
    if cell.judge.name != "beaver_dam":
        caveat = f"; {cell.judge.caveat}" if cell.judge.caveat else ""
        notes.append(f"Judge: {cell.judge.name} in place of the 7B moderation model beaver-dam{caveat}.")
    if cell.measure is not None:
        return notes
    if cell.jailbreak.acts:
        notes += _jailbreak_notes(cell)
    notes += _protocol_notes(cell)
    if cell.evaluation.n_harmful != _PAPER_PROMPTS:
        notes.append(f"Scored on {cell.evaluation.n_harmful} malicious prompts; the paper has {_PAPER_PROMPTS}.")
    return notes


def _jailbreak_notes(cell: CellConfig) -> list[str]:
    """How malicious prompts were disguised, and what a judge of phrases makes of the answers."""
    jailbreak = cell.jailbreak
    notes = [
        f"Prompts under {jailbreak.name}: every malicious prompt is put to the model as {jailbreak.label} disguises "
        f"it, and judged by the request as it was; {jailbreak.caveat}. The AsFT paper prints no figures for it."
    ]
    if cell.judge.name == "refusal":
        notes.append(
            "Disguised prompts and judge=refusal: an answer that only loses itself in the puzzle holds no refusal and "
            "counts as harmful, so HS is an upper bound there; a judge that reads content (docs/judges.md) tells them "
            "apart."
        )
    return notes


def _recipe_differences(cell: CellConfig) -> list[str]:
    """The fine-tune against the paper's, learning rate and epochs; nothing for cells that train nothing."""
    training = cell.training
    if not cell.method.trains or (training.lr, training.epochs) == (5e-5, 10):
        return []
    return [
        f"Fine-tune of {cell.dataset.name}: lr {training.lr:g}, {training.epochs} epoch(s); the paper has lr 5e-05, "
        "10 epochs."
    ]


def _protocol_notes(cell: CellConfig) -> list[str]:
    """The protocol by name, and what still differs from the authors' code."""
    appended = cell.attack.mix == "append"
    notes = []
    if cell.protocol.name == "clean":
        notes.append(
            "Protocol: clean. Batches are shuffled and training and scoring share one template; the authors' code "
            "keeps file order and scores with another template than it trains with."
        )
    else:
        notes.append(
            "Protocol: official. Templates, file order, dropped last batch, padding to "
            f"{cell.training.max_length} tokens and number formats are those of the authors' code."
        )
        notes += _official_notes(cell)
    if cell.dataset.name == "agnews" and not appended and cell.attack.source != "none":
        notes.append("Mixture: harmful rows replace benign ones; the authors' AG News files add them on top.")
    if cell.dataset.name != "agnews" and appended:
        notes.append("Mixture: harmful rows are added on top; in the authors' files they replace benign ones.")
    if cell.data.root == HUB:
        notes.append("Rows: from datasets of the Hugging Face hub (data=hub) in place of the authors' files.")
    if isinstance(cell.model, PretrainedModel) and cell.model.quantization is not None:
        notes.append(f"Weights: frozen in {cell.model.quantization} (model.quantization); the paper quantises nothing.")
    return notes


def _official_notes(cell: CellConfig) -> list[str]:
    """What a cell under ``protocol=official`` does otherwise than the authors' code."""
    training, notes = cell.training, []
    if published_folder(cell) is None:
        notes.append(
            "Mixture: drawn from the seed in the order of the authors' files, since those files are not what is "
            "trained on here."
        )
    elif cell.dataset.name == "agnews" and cell.attack.p == _SHARED_WITH_SAFETY_ROWS:
        notes.append(
            f"Safety rows: the file of p = {cell.attack.p:g} holds the prompts that defences with safety rows (and an "
            "aligned side made here) draw on, so those have seen prompts of the attack."
        )
    fixed = (training.weight_decay, training.epoch_decay, training.max_grad_norm, training.max_length)
    if fixed != (0.0, 0.85, 0.0, 512) or not training.pad_to_max_length or training.accumulation != 1:
        notes.append(
            "Fine-tune: weight decay, decay per epoch, clipping, length, padding or accumulation is not theirs."
        )
    if cell.seed != 42:
        notes.append(f"Seed: {cell.seed}; the authors' code fixes 42.")
    if (cell.dataset.max_new_tokens, cell.evaluation.harmful_max_new_tokens) != (200, 512):
        notes.append(
            f"Answers have at most {cell.dataset.max_new_tokens} tokens (task) and "
            f"{cell.evaluation.harmful_max_new_tokens} (malicious prompts); the authors' 200 and 512."
        )
    if cell.dataset.name == "alpaca":
        notes.append(
            "Alpaca: questions are asked in the bare Alpaca text and answered greedily; the authors sample at "
            "temperature 0.7 with a package that their repository lacks."
        )
    notes.append("Rows whose prompt alone fills the length are refused; the authors' loss becomes NaN there.")
    return notes


def columns_of(sweep: Sweep, experiment: ExperimentConfig) -> tuple[Column, ...]:
    """The columns of an experiment's table, in the order of the sweep's axis."""
    return tuple(
        Column(number(value), f"{experiment.column_label}{value}", experiment.paper_columns.get(value))
        for value in sweep.axes[experiment.columns]
    )


def column_free(sweep: Sweep, row_of: Callable[[SweepCell], str], column_axis: str) -> set[str]:
    """Rows whose cell is the same in every column: the untouched models, a measure of the pair alone."""
    keys: dict[str, set[str]] = {}
    for item in sweep.cells:
        keys.setdefault(row_of(item), set()).add(plan(item.cell).key)
    columns = len(sweep.axes.get(column_axis, []))
    cells = len(sweep.cells) / max(1, len(keys))
    return {name for name, distinct in keys.items() if columns > 1 and len(distinct) * columns <= cells}


def absence(cell: CellConfig, key: str) -> tuple[Literal["missing", "failed"], str]:
    """How a cell without a result stands, and why: its last failure, or what is damaged."""
    store = Store(cell.outputs)
    reason = store.failure(key) or store.damage(store_kind(cell), key)
    return ("failed", reason) if reason else ("missing", "")


def _method(item: SweepCell) -> str:
    return item.cell.method.name


def _record(item: SweepCell, key: str, column: str | None, column_axis: str) -> Cell:
    cell = item.cell
    axis = {} if column is None else {column_axis: number(column)}
    entry = Store(cell.outputs).find("cells", key)
    if entry is None:
        return MissingCell(key, cell.method.name, axis, cell.seed, *absence(cell, key))
    return _finished(entry, cell, axis)


def _finished(entry: Entry, cell: CellConfig, axis: dict[str, str | float | int]) -> CellRecord:
    metrics, stages = entry.result["metrics"], entry.result["stages"]
    harmful = {row["id"]: bool(row["flagged"]) for row in read_jsonl(entry.path / HARMFUL_FILE)}
    rows = read_jsonl(entry.path / TASK_FILE)
    task = {row["id"]: float(row["credit"]) for row in rows if row["credit"] is not None}  # None: without a grade
    graded = cell.dataset.name in GRADED_TASKS
    train = stages.get("train")
    extra = {name: float(value) for name, value in (train or {"result": {}})["result"].items() if _is_number(value)}
    return CellRecord(
        key=entry.manifest["key"],
        method=cell.method.name,
        axis=axis,
        seed=cell.seed,
        hs_flagged=metrics["hs_flagged"],
        hs_total=metrics["hs_total"],
        fa_score=metrics["fa"],
        fa_correct=None if graded else round(sum(task.values())),
        fa_total=metrics["fa_total"],
        harmful_verdicts=harmful,
        task_verdicts=task,
        seconds=entry.seconds + sum(stage["seconds"] for stage in stages.values()),
        peak_memory_mb=max(stage["peak_memory_mb"] for stage in stages.values()),
        trained=train is not None and cell.method.parent is None,
        extra=extra,
        config=cell.plain(),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(text: str) -> str | float | int:
    """An axis value as a number where it is one."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() and "." not in text else value
