"""What sets a sweep apart from the paper's setting, in sentences for a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asft.cells.cell import Cell
from asft.cells.compose import Sweep
from asft.config import OrganismModel, PretrainedModel
from asft.data.base import attack_of, source_of, task_of
from asft.data.hub import Hub

_PAPER_MODEL = "Llama-2-7B-Chat"
_PRINTED = "llama2_7b"  # of every table that has but one model
_PAPER_NAMES = {_PRINTED, "llama3_8b", "qwen2_7b", "gemma2_9b"}
# Which of the paper's models an embedded pair stands in for, in Tables 6 and 7.
_STANDS_FOR = {
    "tiny_llama": "Llama-2-7B-Chat",
    "tiny_llama_gqa": "Llama-3-8B-Instruct",
    "tiny_qwen2": "Qwen-2-7B-Instruct",
    "tiny_gemma2": "Gemma-2-9B-IT",
}
_PAPER_PROMPTS = 250
_SHARED_WITH_SAFETY_ROWS = 0.2  # the ratio whose AG News file the alignment prompts are taken from


def differences(sweep: Sweep) -> list[str]:
    """What is otherwise than in the paper, one sentence each.

    Every cell is looked at: what the columns themselves change (n, the task, the model) is no difference. Cells that
    measure train nothing of the paper's.
    """
    cells = [item.cell for item in sweep.cells]
    notes = _model_differences(cells)
    for cell in cells:
        if cell.measure is None:
            notes += [*_judge(cell), *_jailbreak(cell), *_protocol(cell), *_rows(cell), *_amounts(cell)]
        elif cell.measure.asks:
            notes += _judge(cell)
    return list(dict.fromkeys(notes))


def _model_differences(cells: Sequence[Cell]) -> list[str]:
    """The models of all cells in one sentence for each kind."""
    models = {cell.model.name: cell for cell in cells}
    notes = []
    embedded = [name for name, cell in models.items() if isinstance(cell.model, OrganismModel)]
    if embedded:
        pairs = ", ".join(f"{name} in place of {_STANDS_FOR.get(name, _PAPER_MODEL)}" for name in embedded)
        notes.append(
            f"Model: {pairs}; embedded, about one million parameters, trained on a synthetic world. Task, attack and "
            "prompts are that world's twins and hold no real harmful text."
        )
    printed = _PAPER_NAMES if len(models) > 1 else {_PRINTED}
    for name, cell in models.items():
        if name not in embedded and not (isinstance(cell.model, PretrainedModel) and name in printed):
            notes.append(f"Model: {name} in place of {_PAPER_MODEL}.")
        if name not in embedded and source_of(cell).synthetic:
            notes.append(f"Data of {name}: the embedded world's rows and prompts (data.root is null), not the paper's.")
    return notes


def _judge(cell: Cell) -> Iterator[str]:
    if cell.judge.name != "beaver_dam":
        caveat = f"; {cell.judge.caveat}" if cell.judge.caveat else ""
        yield f"Judge: {cell.judge.name} in place of the 7B moderation model beaver-dam{caveat}."


def _jailbreak(cell: Cell) -> Iterator[str]:
    """How malicious prompts were disguised, and what a judge of phrases makes of the answers."""
    jailbreak = cell.jailbreak
    if not jailbreak.acts:
        return
    yield (
        f"Prompts under {jailbreak.name}: every malicious prompt is put to the model as {jailbreak.label} disguises "
        f"it, and judged by the request as it was; {jailbreak.caveat}. The AsFT paper prints no figures for it."
    )
    if cell.judge.name == "refusal":
        yield (
            "Disguised prompts and judge=refusal: an answer that only loses itself in the puzzle holds no refusal and "
            "counts as harmful, so HS is an upper bound there; a judge that reads content (docs/judges.md) tells them "
            "apart."
        )


def _protocol(cell: Cell) -> Iterator[str]:
    """The protocol by name, and what a cell under ``official`` still does otherwise than the authors' code."""
    training, evaluation = cell.training, cell.evaluation
    if cell.protocol.name == "clean":
        yield (
            "Protocol: clean. Batches are shuffled and training and scoring share one template; the authors' code "
            "keeps file order and scores with another template than it trains with."
        )
        return
    yield (
        f"Protocol: official. Templates, file order, dropped last batch, padding to {training.max_length} tokens and "
        "number formats are those of the authors' code."
    )
    if source_of(cell).mixture_identity(task_of(cell), attack_of(cell)) is None:
        yield (
            "Mixture: drawn from the seed in the order of the authors' files, since those files are not what is "
            "trained on here."
        )
    elif cell.dataset.name == "agnews" and cell.attack.p == _SHARED_WITH_SAFETY_ROWS:
        yield (
            f"Safety rows: the file of p = {cell.attack.p:g} holds the prompts that defences with safety rows (and an "
            "aligned side made here) draw on, so those have seen prompts of the attack."
        )
    fixed = (training.weight_decay, training.epoch_decay, training.max_grad_norm, training.max_length)
    if fixed != (0.0, 0.85, 0.0, 512) or not training.pad_to_max_length or training.accumulation != 1:
        yield "Fine-tune: weight decay, decay per epoch, clipping, length, padding or accumulation is not theirs."
    if cell.seed != 42:
        yield f"Seed: {cell.seed}; the authors' code fixes 42."
    if (cell.dataset.max_new_tokens, evaluation.harmful_max_new_tokens) != (200, 512):
        yield (
            f"Answers have at most {cell.dataset.max_new_tokens} tokens (task) and {evaluation.harmful_max_new_tokens} "
            "(malicious prompts); the authors' 200 and 512."
        )
    if cell.dataset.name == "alpaca":
        yield (
            "Alpaca: questions are asked in the bare Alpaca text and answered greedily; the authors sample at "
            "temperature 0.7 with a package that their repository lacks."
        )
    yield "Of rows whose prompt alone fills the length nothing is learned; the authors' loss becomes NaN there."


def _rows(cell: Cell) -> Iterator[str]:
    """Where rows come from and how they are mixed; the weights that they are trained on."""
    agnews, appended = cell.dataset.name == "agnews", cell.attack.mix == "append"
    if agnews and not appended and cell.attack.source != "none":
        yield "Mixture: harmful rows replace benign ones; the authors' AG News files add them on top."
    if appended and not agnews:
        yield "Mixture: harmful rows are added on top; in the authors' files they replace benign ones."
    if isinstance(cell.data, Hub):
        yield "Rows: from datasets of the Hugging Face hub (data=hub) in place of the authors' files."
    if isinstance(cell.model, PretrainedModel) and cell.model.quantization is not None:
        yield f"Weights: frozen in {cell.model.quantization} (model.quantization); the paper quantises nothing."


def _amounts(cell: Cell) -> Iterator[str]:
    """How many prompts score a cell, and how long it trains."""
    prompts, training = cell.evaluation.n_harmful, cell.training
    if prompts != _PAPER_PROMPTS:
        yield f"Scored on {prompts} malicious prompts; the paper has {_PAPER_PROMPTS}."
    if cell.method.trains and (training.lr, training.epochs) != (5e-5, 10):
        lr = f"lr {training.lr:g}, {training.epochs} epoch(s)"
        yield f"Fine-tune of {cell.dataset.name}: {lr}; the paper has lr 5e-05, 10 epochs."
