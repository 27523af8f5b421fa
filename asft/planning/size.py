"""The checkpoints that cells are made of, and memory and disk: estimates whose formulas are stated."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from asft.anchor.names import is_target, unmatched
from asft.cells.cell import Cell
from asft.cells.job import Job
from asft.config import ModelConfig, OrganismModel, PretrainedModel, SafetyTunedModel
from asft.data.base import task_of
from asft.door import stored_shapes
from asft.judges.base import Judge
from asft.judges.checkpoint_judge import CheckpointJudge
from asft.judges.ensemble import EnsembleJudge
from asft.methods.asft import AsFT
from asft.methods.post_hoc import PostHoc
from asft.models.organism.recipe import KEY_HEADS, SIZES, BuildRecipe
from asft.planning.trainings import answer_tokens, steps
from asft.store.entries import content_key

_SIZE_IN_NAME = re.compile(r"(?<![a-z\d.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of a parameter
_CONTEXT = 2**30  # bytes that a CUDA context and the allocator's slack take
_PROMPT, _DISGUISED = 256, 2048  # tokens in front of an answer, as asked and under a jailbreak
_ASPECT = 128  # width per layer of the Llama family: 4096 / 32
_SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
_SMOLLM2 |= {"num_key_value_heads": 3, "vocab_size": 49_152}


@dataclass(frozen=True)
class Needed:
    """A folder or hub repository that cells load, what it is for, and bytes of a parameter of it."""

    source: str
    revision: str
    purpose: str
    width: int

    @property
    def size(self) -> int:
        """Bytes, by the size in the name; 0 where there is none."""
        return self.width * (parameters_in_name(self.source) or 0)


def checkpoints(cells: Iterable[Cell]) -> list[Needed]:
    """Every checkpoint that the cells load, once."""
    found: dict[tuple[str, str], Needed] = {}
    for cell in cells:
        model = cell.model
        wanted = [
            Needed(judge.model, judge.revision, f"judge={judge.name}", BYTES[judge.dtype])
            for judge in judges(cell.judge)
            if isinstance(judge, CheckpointJudge)
        ]
        if isinstance(model, PretrainedModel):  # published checkpoints hold two bytes a parameter
            wanted.append(Needed(model.base, model.base_revision, "model.base", 2))
            wanted.append(Needed(model.aligned, model.aligned_revision, "model.aligned", 2))
        for item in wanted:
            found.setdefault((item.source, item.revision), item)
    return list(found.values())


def downloads(cells: Iterable[Cell]) -> list[Needed]:
    """Those that are not on this machine."""
    return [item for item in checkpoints(cells) if local_snapshot(item.source, item.revision) is None]


def judges(judge: Judge) -> list[Judge]:
    """The judge, or the members of an ensemble."""
    if isinstance(judge, EnsembleJudge):
        return [found for member in judge.members.values() for found in judges(member)]
    return [judge]


def local_snapshot(source: str, revision: str) -> Path | None:
    """A local folder, or a hub repository's in the cache that holds a ``config.json``; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        return None
    found = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def parameters_in_name(name: str) -> int | None:
    """7_000_000_000 for ``Llama-2-7b-chat-hf``; None where no size stands in the name."""
    found = _SIZE_IN_NAME.findall(re.sub(r"[_/-]", " ", name))
    return round(float(found[-1][0]) * (10**9 if found[-1][1].lower() == "b" else 10**6)) if found else None


@dataclass(frozen=True)
class Shape:
    """What memory and disk depend on.

    Attributes:
        parameters: of one side of the pair.
        layers, width, kv_width, vocabulary: of the decoder; ``kv_width`` is that of all key heads together.
        adapted: (outputs, inputs) of each linear module that ``training.target_modules`` names.
        exact: whether all this was read from the weights, not guessed from the name.
    """

    parameters: int
    layers: int
    width: int
    kv_width: int
    vocabulary: int
    adapted: tuple[tuple[int, int], ...]
    exact: bool

    def lora_parameters(self, rank: int) -> int:
        """r · (o + i) over the adapted modules."""
        return rank * sum(outputs + inputs for outputs, inputs in self.adapted)


def model_shape(job: Job) -> Shape | None:
    """The shape of the job's aligned model; None where it is not here and its name tells no size."""
    targets, model = job.cell.training.target_modules, job.cell.model
    if isinstance(model, PretrainedModel):
        folder, name = local_snapshot(model.aligned, model.aligned_revision), model.aligned
    else:
        folder, name = job.store.path("pairs", content_key(job.plan.pair)) / "aligned", model.name
    return shape_of(folder, name, targets, 10**6 if isinstance(model, OrganismModel) else None)


def shape_of(folder: Path | None, name: str, targets: Collection[str], parameters: int | None = None) -> Shape | None:
    """From a checkpoint's files, or else guessed from its size: that in its name where ``parameters`` says none."""
    if folder is not None and (shapes := stored_shapes(folder)):
        return _of_weights(shapes, targets)
    parameters = parameters or parameters_in_name(name)
    if parameters is None:
        return None
    # A decoder of that size in the Llama family's proportions: N ≈ 12 · layers · width².
    layers = max(1, round((parameters / (12 * _ASPECT**2)) ** (1 / 3)))
    width = _ASPECT * layers
    return Shape(parameters, layers, width, width, 32_000, ((width, width),) * (layers * len(targets)), False)


def target_modules(model: ModelConfig, targets: Collection[str]) -> dict[str, tuple[int, int]] | None:
    """Rows and columns of the weight of each module of the aligned model that ``targets`` name, by its name.

    None where the model is not on this machine yet. ValueError, of one line, where a target names none.
    """
    if isinstance(model, OrganismModel):
        own = {"num_key_value_heads": KEY_HEADS[model.architecture], "vocab_size": BuildRecipe().vocab_size}
        linears = _of_the_llama_family({**SIZES, **own})
    elif isinstance(model, SafetyTunedModel):
        linears = _of_the_llama_family(_SMOLLM2)
    else:
        folder = local_snapshot(model.aligned, model.aligned_revision)
        if folder is None or not (shapes := stored_shapes(folder)):
            return None
        # Layers have numbers, and what has two dimensions there is linear, but for what chooses among experts.
        linears = {
            name.removesuffix(".weight"): (shape[0], shape[1])
            for name, shape in shapes.items()
            if len(shape) == 2 and name.endswith(".weight") and re.search(r"\.\d+\.", name)
        }
        if any("expert" in name for name in shapes) or unmatched(targets, linears):
            linears = _of_the_class(folder, targets)
    if missing := unmatched(targets, linears):
        leaves = sorted({name.rpartition(".")[2] for name in linears})
        raise ValueError(
            f"training.target_modules={list(targets)}: {missing[0]} names no linear module of model={model.name}; "
            f"allowed: {', '.join(leaves)}"
        )
    return {name: shape for name, shape in linears.items() if is_target(name, targets)}


def _of_the_llama_family(config: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """A decoder's linear modules by its ``config.json``; heads are as wide as there is room for."""
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    keys = width // heads * config["num_key_value_heads"]
    parts = {f"self_attn.{name}_proj": rows for name, rows in {"q": width, "k": keys, "v": keys, "o": width}.items()}
    parts |= {"mlp.gate_proj": inner, "mlp.up_proj": inner}
    layer = {**{name: (rows, width) for name, rows in parts.items()}, "mlp.down_proj": (width, inner)}
    layers = range(config["num_hidden_layers"])
    named = {f"model.layers.{index}.{name}": shape for index in layers for name, shape in layer.items()}
    return {**named, "lm_head": (config["vocab_size"], width)}


def _of_the_class(folder: Path, targets: Collection[str]) -> dict[str, tuple[int, int]]:
    """Those of the class that transformers builds for a checkpoint, which is asked where headers do not suffice."""
    from asft.anchor.checkpoint import Checkpoint  # torch and transformers take seconds to load

    checkpoint = Checkpoint(folder, "aligned")
    found = {}
    for name in checkpoint.architecture.linears if checkpoint.architecture else checkpoint.linears_by_key():
        rows, columns = checkpoint.shape(f"{name}.weight") if is_target(name, targets) else (0, 0)  # of no interest
        found[name] = rows, columns
    return found


def _of_weights(shapes: Mapping[str, tuple[int, ...]], targets: Collection[str]) -> Shape:
    matrices = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) == 2}
    vocabulary, width = max(matrices.values())  # the embedding has the most rows
    layers = {match[1] for name in shapes if (match := re.search(r"\.(\d+)\.", name))}
    keys = [shape[0] for name, shape in matrices.items() if name.endswith(".k_proj")]
    adapted = tuple((shape[0], shape[1]) for name, shape in matrices.items() if name.rpartition(".")[2] in targets)
    parameters = sum(map(math.prod, shapes.values()))
    return Shape(parameters, len(layers), width, max(keys, default=width), vocabulary, adapted, True)


@dataclass(frozen=True)
class Memory:
    """Bytes on the device while training, generating and judging."""

    train: float
    generate: float
    judge: float

    @property
    def peak(self) -> float:
        """The largest stage: the three do not overlap, since a judge rests in host memory in between."""
        return max(self.train, self.generate, self.judge)


def device_memory(cell: Cell, shape: Shape, gpus: int = 1) -> Memory:
    """An estimate of device memory, for rows that fill ``training.max_length``.

    Where ``gpus`` shard a training (FSDP2), each has their share of weights, what is trained, the anchor and the
    batch's rows, one at least, and two layers' weights whole; answering and judging are not sharded.

    With N parameters of b bytes (4 in training under ``protocol=official``), P trained ones, t = batch · max_length, L
    layers of width h and a vocabulary v:

    - weights: N · b
    - training: 16 · P for LoRA (float32 weight, gradient, AdamW's two moments), 3 · N · b beside the weights for
      full fine-tuning; activations 34 · t · h · L · b/2 (Korthikanti et al. 2022, arXiv:2205.05198, Eq. 2 without
      the attention matrix, which sdpa does not keep), with gradient checkpointing t · h · b a layer and one layer
      whole; logits t · v · (b + 8), of which training.label_logits leaves out those without a label
    - the anchor's matrices of a method that has one: 4 · Σ o²
    - generating: key-value cache 2 · L · kv · b · batch · (prompt + answer), logits 4 · batch · v
    - judging: the judge's parameters times its bytes; its activations are small beside that
    - 1 GiB for the CUDA context
    """
    model, training = cell.model, cell.training
    official = cell.protocol.name == "official"  # which trains in float32
    own = BYTES[model.dtype] if isinstance(model, PretrainedModel) else 4
    size, answering = (4, BYTES[task_of(cell).official_dtype]) if official else (own, own)
    weights = shape.parameters * size
    tokens = math.ceil(training.batch_size / gpus) * training.max_length
    layer = 34 * tokens * shape.width * size / 2
    activations = layer * shape.layers
    if training.gradient_checkpointing:
        activations = tokens * shape.width * size * shape.layers + layer
    trained = 16 * shape.lora_parameters(training.rank) if training.name == "lora" else 3 * weights
    logits = tokens * shape.vocabulary * (size + 8)
    anchor = 4 * sum(outputs**2 for outputs, _ in shape.adapted) if isinstance(cell.method, AsFT) else 0
    prompt = _DISGUISED if cell.jailbreak.acts else _PROMPT
    answer = prompt + max(cell.evaluation.harmful_max_new_tokens, cell.dataset.max_new_tokens)
    batch = cell.evaluation.batch_size
    judging = [item.size for item in checkpoints([cell]) if item.purpose.startswith("judge=")]
    whole = 2 * weights / shape.layers if gpus > 1 else 0
    return Memory(
        train=_CONTEXT + (weights + trained + anchor) / gpus + whole + activations + logits,
        generate=generating(shape, answering, batch, answer),
        judge=_CONTEXT + max(judging, default=0),
    )


def training_flops(cell: Cell, shape: Shape) -> float:
    """Floating-point operations of a cell's fine-tune, at most: 2 a parameter and token forward, as many back.

    Weights that are trained take 2 more, activations that are computed again (gradient checkpointing) another 2; tokens
    as if every row filled ``training.max_length`` (Kaplan et al. 2020, arXiv:2001.08361, Table 1, without attention).
    """
    training = cell.training
    passes = 4 + 2 * (training.name != "lora") + 2 * training.gradient_checkpointing
    rows = steps(cell) * training.accumulation * training.batch_size
    return float(passes * shape.parameters * rows * training.max_length)


def generating(shape: Shape, size: int, batch: int, tokens: int = _PROMPT) -> float:
    """Bytes while so many rows of so many tokens are answered at once; see :func:`device_memory`."""
    cache = 2 * shape.layers * shape.kv_width * size * batch * tokens
    return _CONTEXT + shape.parameters * size + cache + 4 * batch * shape.vocabulary


def disk_bytes(fine_tunes: Collection[Cell], cells: Collection[Cell], shape: Shape) -> float:
    """Bytes that fine-tunes, anchors and answers take below ``outputs``, at most.

    A post-hoc method's adapter is a fine-tune's in size; a start that is made of the pair is a whole model; an anchor
    holds two o×o matrices a module; answers are kept twice, the second time with their verdicts, at four bytes a token.
    """
    stored = [*fine_tunes, *(cell for cell in cells if isinstance(cell.method, PostHoc))]
    lora = sum(4 * shape.lora_parameters(cell.training.rank) for cell in stored if cell.training.name == "lora")
    full = sum(4 * shape.parameters for cell in stored if cell.training.name != "lora")
    starts = {repr(start) for cell in cells if not isinstance(start := cell.method.start(), str)}
    answers = sum(2 * 4 * answer_tokens(cell.plain()) for cell in cells)
    variants = {cell.method.variant for cell in cells if isinstance(cell.method, AsFT)}
    return (
        lora
        + full
        + 4 * shape.parameters * len(starts)
        + answers
        + len(variants) * 2 * 4 * sum(outputs**2 for outputs, _ in shape.adapted)
    )
