"""What can be chosen: plain schemas of every config group. Imports nothing of ours; everything may import it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from asft.text import without_home

STRICT = ConfigDict(extra="forbid")
Side = Literal["base", "aligned"]
Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["8bit", "4bit"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as numpy, which the Trainer seeds, takes it
Place = Annotated[str, Field(min_length=1)]  # a folder, a file or a hub id; an empty path would be the current folder
# Names become folder names; none may lead out of the outputs folder.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


@dataclass(frozen=True, config=STRICT)
class Plugin:
    """A part of a cell that is a class named by its YAML: a method, a judge, …; its fields are its settings.

    Class attributes:
        name: the name in configurations, keys and reports, e.g. ``safe_lora``; stable, whatever file the class is in.
        practical: fields that can change no result (where and how fast it is computed); not part of a key.
        code: to be raised when the class starts to give another result for equal settings.
    """

    name: ClassVar[str] = ""
    practical: ClassVar[frozenset[str]] = frozenset()
    code: ClassVar[int] = 1

    def settings(self) -> dict[str, Any]:
        """The plug-in's identity for content keys: its name, its code and the fields that can change a result."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        kept = {name: as_plain(value) for name, value in fields.items() if name not in self.practical}
        cls: Any = type(self)  # mypy does not see that a class can be hashed
        return {"name": self.name, "code": _code(cls), **kept}


def joined(theirs: Mapping[str, Any], **ours: Any) -> dict[str, Any]:
    """A plug-in's part of a key and what stands beside it; ValueError where one would be lost behind the other."""
    if lost := sorted(theirs.keys() & ours):
        told = "a plug-in's settings or rows have this name, and so has the key around them; name it otherwise"
        raise ValueError(f"{lost[0]}: {told}")
    return {**theirs, **ours}


def as_plain(value: Any) -> Any:
    """A setting as JSON holds it; plug-ins inside it by their identities."""
    if isinstance(value, Plugin):
        return value.settings()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): as_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


@functools.cache
def _code(cls: type[Plugin]) -> int | str:
    """The class's ``code``; for one from outside this package a digest of its source too, so that an edit counts."""
    outside = [base for base in cls.__mro__ if issubclass(base, Plugin) and not base.__module__.startswith("asft.")]
    if not outside:
        return cls.code
    helpers: dict[str, str] = {}
    try:
        text = "".join(inspect.getsource(inspect.getmodule(base) or base) for base in outside)
        for base in outside:
            helpers |= _helpers(base.__module__, Path(inspect.getfile(base)))
    except (OSError, TypeError):  # typed in at a prompt
        return cls.code
    text += "".join(helpers[name] for name in sorted(helpers.keys() - {base.__module__ for base in outside}))
    return f"{cls.code}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _helpers(module: str, file: Path) -> dict[str, str]:
    """Source by name of the modules that one imports, directly or not, from its own folder; none of them is run.

    Of what lies in site-packages, only modules of the same package.
    """
    file = file.absolute()
    path = file.parent if file.name == "__init__.py" else file.with_suffix("")
    if list(path.parts[-module.count(".") - 1 :]) != module.split("."):  # a script, which is called __main__
        module = path.name
    folder, own = path.parents[module.count(".")], module.partition(".")[0]
    shared = folder.name in {"site-packages", "dist-packages"}
    texts: dict[str, str] = {}
    left, seen = [module], {""}
    while left:
        name = left.pop()
        top = name.partition(".")[0]
        if name in seen or top == "asft" or (shared and top != own):
            continue
        seen.add(name)
        left.append(name.rpartition(".")[0])  # a package's __init__ is run before its modules
        place = folder.joinpath(*name.split("."))
        package = (place / "__init__.py").is_file()
        source = place / "__init__.py" if package else place.with_suffix(".py")
        if not source.is_file():
            continue
        texts[name] = source.read_text(encoding="utf-8", errors="replace")
        try:
            nodes = list(ast.walk(ast.parse(texts[name])))
        except (SyntaxError, ValueError):  # nobody can import it
            continue
        around = name.split(".") if package else name.split(".")[:-1]
        for node in nodes:
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                parts = around[: len(around) + 1 - node.level] if node.level else []
                origin = [*parts, *([node.module] if node.module else [])]
                left += [".".join(origin), *(".".join([*origin, alias.name]) for alias in node.names)]
    texts.pop(module, None)
    return texts


class ConfigError(ValueError):
    """A mistake in the configuration, told in one line for the person who made it.

    ``texts`` are keys that want a text and were given what reads as something else, such as 12e4567.
    """

    def __init__(self, message: str, texts: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.texts = frozenset(texts)


@dataclass(frozen=True, config=STRICT)
class TaskRecipe:
    """A model's own settings for one task, where they differ from those of the others."""

    lora_lr: Annotated[float, Field(gt=0)]
    epochs: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class RecipeConfig:
    """Settings that suit a model; ``training=`` and ``evaluation`` read their defaults from here."""

    lora_lr: Annotated[float, Field(gt=0)]
    full_lr: Annotated[float, Field(gt=0)]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 8
    eval_batch_size: Annotated[int, Field(ge=1)] = 32
    harmful_max_new_tokens: Annotated[int, Field(ge=1)] = 512
    safe_lora_modules: Annotated[int, Field(ge=1)] = 10
    bea_trigger_tokens: Annotated[int, Field(ge=1)] = 150
    lisa_steps: tuple[int, int] = (100, 900)
    defender_rows: Annotated[int, Field(ge=1)] = 100
    safe_merge_threshold: Annotated[float, Field(ge=-1, le=1.1)] = 0.35
    guard_space_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    task_max_new_tokens: Annotated[int, Field(ge=1)] = 200
    autocast: Literal["bfloat16"] | None = None
    answer_dtype: Literal["float32", "bfloat16"] | None = None
    label_logits: bool = False
    tasks: dict[str, TaskRecipe] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class OrganismModel:
    """The embedded pair, trained from scratch on the synthetic world; the default one comes with the package."""

    source: Literal["organism"]
    name: Name
    architecture: Literal["llama", "llama_gqa", "qwen2", "gemma2"]
    recipe: RecipeConfig
    seed: Seed = 0


@dataclass(frozen=True, config=STRICT)
class PretrainedModel:
    """A published pair: two checkpoints, each a hub id or a local folder of safetensors.

    Attributes:
        dtype: number format of the weights; under ``protocol=official`` training is in float32 whatever this says.
        quantization: how the frozen weights are kept in memory (bitsandbytes); the anchor reads the files as stored.
        device_map: spreads one model over several GPUs; changes no result.
    """

    source: Literal["pretrained"]
    name: Name
    base: Place
    aligned: Place
    recipe: RecipeConfig
    base_revision: str = "main"
    aligned_revision: str = "main"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    quantization: Literal["8bit", "4bit"] | None = None
    device_map: Literal["auto", "balanced", "sequential"] | None = None


@dataclass(frozen=True, config=STRICT)
class SafetyTunedModel:
    """SmolLM2-135M-Instruct from PyPI as the unaligned side; the aligned side is its safety fine-tune.

    All parameters are trained on short refusals to malicious prompts, and on benign prompts of four kinds, answered by
    the unaligned side itself so that it keeps its abilities.

    Attributes:
        data: a folder of public safety data (docs/data.md).
        refusals, contrast, look_alikes, everyday, ordinary: rows of each kind (:mod:`asft.data.twin`).
        answer_tokens: where answers are cut, learned without an end then.
    """

    source: Literal["smollm2"]
    name: Name
    recipe: RecipeConfig
    refusals: Annotated[int, Field(ge=1)]
    contrast: Annotated[int, Field(ge=0)]
    look_alikes: Annotated[int, Field(ge=0)]
    everyday: Annotated[int, Field(ge=0)]
    ordinary: Annotated[int, Field(ge=0)]
    epochs: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)] = 16
    answer_tokens: Annotated[int, Field(ge=1)] = 48
    seed: Seed = 0
    data: Place | None = None


ModelConfig = Annotated[OrganismModel | PretrainedModel | SafetyTunedModel, Field(discriminator="source")]


@dataclass(frozen=True)
class TaskConfig(Plugin):
    """The downstream task; the first ``n_test`` of its test rows are scored, or all where there are fewer."""

    n_test: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class HubSource:
    """One dataset of the hub, or a local copy of it.

    Attributes:
        path: hub id or local folder.
        split: the split to read; ``train`` where the path or ``file`` is one data file.
        config: the dataset's configuration, where it has several.
        file: one data file to read instead of the dataset, e.g. where the dataset is a script.
        prompt, answer: columns of harmful and safety sources; tasks have columns of their own.
        only: rows kept, by column and value.
        answers: a JSON object of answers by name, where the answer's column holds such names.
    """

    path: Place
    split: str = "train"
    revision: str = "main"
    config: str | None = None
    file: str | None = None
    prompt: str = "prompt"
    answer: str | None = None
    only: dict[str, bool | int | str] = dataclasses.field(default_factory=dict)
    answers: str | None = None


@dataclass(frozen=True)
class DataConfig(Plugin):
    """Where rows come from."""


@dataclass(frozen=True)
class AttackConfig(Plugin):
    """The poison mixture: ``n`` rows with a share ``p`` harmful; ``append`` adds p·n on top of n benign.

    ``source`` names the harmful rows; ``none`` has none.
    """

    source: Name
    p: Annotated[float, Field(ge=0, le=1)]
    n: Annotated[int, Field(ge=1)]
    mix: Literal["replace", "append"] = "replace"

    def harmful_count(self) -> int:
        """Number of harmful rows: round(p·n), 0 without a source."""
        return 0 if self.source == "none" else round(self.p * self.n)

    def benign_count(self) -> int:
        """Number of benign rows: the rest of n under ``replace``, n under ``append``."""
        return self.n - self.harmful_count() if self.mix == "replace" else self.n


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """The fine-tune.

    Attributes:
        name: which parameters are trained: those of a LoRA adapter, or all.
        lr, epochs: by default the model's own, ``model.recipe``.
        batch_size, accumulation: rows at once, and how many such batches make a step.
        epoch_decay: multiplies the learning rate after each epoch (paper's code: 0.85).
        max_grad_norm: gradients are clipped to it; 0 clips none.
        max_length: tokens of a row, cut on the right.
        pad_to_max_length: rows are padded to ``max_length``, not to the longest of their batch.
        gradient_checkpointing: less memory for more time; changes no result.
        label_logits: logits are computed where a label is, not at every position; equal but for rounding.
        autocast: number format of matrix products, whose weights stay as they are; None is the weights' own.
        rank, alpha, dropout, target_modules: of the adapter; its update is (alpha / rank) · BA.
    """

    name: Literal["lora", "full"]
    lr: Annotated[float, Field(gt=0)]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    accumulation: Annotated[int, Field(ge=1)] = 1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    epoch_decay: Annotated[float, Field(gt=0, le=1)] = 0.85
    max_grad_norm: Annotated[float, Field(ge=0)] = 0.0
    max_length: Annotated[int, Field(ge=8)] = 512
    pad_to_max_length: bool = False
    gradient_checkpointing: bool = False
    label_logits: bool = False
    autocast: Literal["bfloat16"] | None = None
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] = ("q_proj", "v_proj")


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """How answers are generated (greedy).

    Attributes:
        n_harmful: malicious prompts behind the harmful score.
        harmful_max_new_tokens: of an answer to one of them; those of the task's answers are ``dataset.max_new_tokens``.
        batch_size: answers generated at once; changes no result.
        dtype: number format of the weights that answer; None is the pair's own. ``protocol=official`` has its own, and
            landscapes and lengths have float32.
    """

    n_harmful: Annotated[int, Field(ge=1)] = 250
    harmful_max_new_tokens: Annotated[int, Field(ge=1)] = 512
    batch_size: Annotated[int, Field(ge=1)] = 64
    dtype: Literal["float32", "bfloat16"] | None = None


@dataclass(frozen=True, config=STRICT)
class ProtocolConfig:
    """Which protocol the cell follows; :mod:`asft.data.protocol` says what each decides.

    ``name`` alone is part of a key. The rest are defaults that other groups' YAML reads (``attack.mix``,
    ``training.pad_to_max_length``, ``dataset.max_new_tokens``, ``seed``), where each can be overridden.
    """

    name: Literal["clean", "official"]
    mix: dict[str, Literal["replace", "append"]]
    pad_to_max_length: bool
    label_max_new_tokens: Annotated[int, Field(ge=1)]
    seed: Seed


@dataclass(frozen=True, config=STRICT)
class Wishes:
    """What a strength, or an attack, is chosen for; in percentage points, fixed before anything runs.

    Attributes:
        fa_losses: the lowest HS with FA at most so much below plain fine-tuning's.
        hs_limits: the highest FA with HS at most this.
        attack_share: the highest HS with FA at least this share of plain fine-tuning's: an attacker's wish.
    """

    fa_losses: tuple[Annotated[float, Field(ge=0)], ...] = ()
    hs_limits: tuple[Annotated[float, Field(ge=0, le=100)], ...] = ()
    attack_share: Annotated[float, Field(gt=0, le=1)] | None = None


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """How a table is laid out; its axes are the ``hydra.sweeper.params`` of the same YAML.

    Attributes:
        columns: the axis whose values are the columns.
        sweeps: parts that the experiment is made of, each with axes of its own beside those that all share; none for
            a plain grid.
        wishes: what strengths are chosen for, where they are compared and not laid out as a table.
        rows: what differs between rows: ``method``, or a swept key.
        row_labels: display names of rows, where the axis' values do not speak for themselves.
        controls: rows that do not compete for the best defence.
        paper_rows: the paper's name of a row, where it differs.
        paper_columns: the paper's name of a column that stands in for another, e.g. ``tiny_llama: llama2_7b``.
    """

    name: Name
    title: str
    columns: str = ""
    column_title: str = ""
    column_label: str = ""
    sweeps: dict[Name, dict[str, Any]] = dataclasses.field(default_factory=dict)
    wishes: Wishes | None = None
    rows: str = "method"
    row_labels: dict[str, str] = dataclasses.field(default_factory=dict)
    paper_rows: dict[str, str] = dataclasses.field(default_factory=dict)
    controls: tuple[str, ...] = ("base", "aligned")
    paper_table: str | None = None
    paper_columns: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Settings:
    """The choices that a plug-in may look at: all that decide a cell's numbers, but for the plug-ins themselves."""

    model: ModelConfig
    dataset: TaskConfig
    data: DataConfig
    attack: AttackConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    protocol: ProtocolConfig
    seed: Seed


@dataclass(frozen=True, config=STRICT)
class Options:
    """How a cell is run; no number depends on it.

    Attributes:
        outputs: the folder of the store.
        workers: processes that share a sweep's cells out; ``auto`` is one a core where cells are small, else one.
        checkpoint_every: seconds between two points that an interrupted training goes on from.
    """

    outputs: Annotated[Path, AfterValidator(Path.expanduser)]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    checkpoint_every: Annotated[float, Field(ge=0)] = 60.0


def passed_on(config: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's whole configuration for others: without how it is run and tracked, ``~`` for the home folder."""
    ours = {field.name for field in dataclasses.fields(Options)} | {"tracker"}
    return {name: without_home(part) for name, part in config.items() if name not in ours}
