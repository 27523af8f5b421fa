"""The typed configuration: what Hydra composes is checked here once and converted to frozen dataclasses.

Below this module and :mod:`asft.cli` nothing knows Hydra. A mistake of the user's ends as one
:class:`ConfigError` line that names the key, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from asft.evaluation.grader import Grader
from asft.evaluation.judge import Judge
from asft.measures.base import Measure
from asft.methods.base import Method
from asft.tracking import Tracker

STRICT = ConfigDict(extra="forbid")
T = TypeVar("T")


# Names become folder names; none may lead out of the outputs folder.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class ConfigError(ValueError):
    """A mistake in the configuration, told in one line for the person who made it."""


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
    task_max_new_tokens: Annotated[int, Field(ge=1)] = 200
    tasks: dict[str, TaskRecipe] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class OrganismModel:
    """The embedded pair, trained from scratch on the synthetic world on first use."""

    source: Literal["organism"]
    name: Name
    architecture: Literal["llama", "llama_gqa", "qwen2", "gemma2"]
    recipe: RecipeConfig
    seed: Annotated[int, Field(ge=0)] = 0


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
    base: str
    aligned: str
    recipe: RecipeConfig
    base_revision: str = "main"
    aligned_revision: str = "main"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    quantization: Literal["8bit", "4bit"] | None = None
    device_map: Literal["auto", "balanced", "sequential"] | None = None


@dataclass(frozen=True, config=STRICT)
class SafetyTunedModel:
    """SmolLM2-135M-Instruct from PyPI as the unaligned side; the aligned side is its safety fine-tune.

    ``refusals`` harmful prompts of the user's data, none of them in the attack or in the evaluation, are
    answered with a refusal and mixed with ``benign`` ordinary rows; all parameters are trained.
    """

    source: Literal["smollm2"]
    name: Name
    recipe: RecipeConfig
    refusals: Annotated[int, Field(ge=1)] = 98
    benign: Annotated[int, Field(ge=0)] = 100
    epochs: Annotated[int, Field(ge=1)] = 3
    lr: Annotated[float, Field(gt=0)] = 5e-5
    batch_size: Annotated[int, Field(ge=1)] = 8
    max_length: Annotated[int, Field(ge=8)] = 256
    seed: Annotated[int, Field(ge=0)] = 0


ModelConfig = Annotated[OrganismModel | PretrainedModel | SafetyTunedModel, Field(discriminator="source")]
Task = Literal["agnews", "sst2", "gsm8k", "alpaca"]


@dataclass(frozen=True, config=STRICT)
class DatasetConfig:
    """The downstream task; the first ``n_test`` of its test rows are scored, or all where there are fewer."""

    name: Task
    n_test: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class HubSource:
    """One dataset of the hub, or a local copy of it.

    Attributes:
        path: hub id or local folder.
        split: the split to read; ``train`` where ``file`` is given.
        config: the dataset's configuration, where it has several.
        file: one data file to read instead of the dataset, e.g. where the dataset is a script.
        prompt, answer: columns of harmful and safety sources; tasks have columns of their own.
        only: rows kept, by column and value.
    """

    path: str
    split: str
    revision: str = "main"
    config: str | None = None
    file: str | None = None
    prompt: str = "prompt"
    answer: str | None = None
    only: dict[str, bool | int | str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Where rows come from: ``root`` null is the embedded world, ``hub`` the ``sources``, else a folder of files."""

    root: str | None = None
    sources: dict[str, HubSource] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class AttackConfig:
    """The poison mixture: ``n`` rows with a share ``p`` harmful; ``append`` adds p·n on top of n benign."""

    source: Literal["none", "harmful", "advbench", "beavertails", "harmbench"]
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
    """The fine-tune. ``epoch_decay`` multiplies the learning rate after each epoch (paper's code: 0.85)."""

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
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """How answers are generated (greedy) for the harmful score and for the task."""

    n_harmful: Annotated[int, Field(ge=1)] = 250
    harmful_max_new_tokens: Annotated[int, Field(ge=1)] = 512
    batch_size: Annotated[int, Field(ge=1)] = 64


@dataclass(frozen=True, config=STRICT)
class ProtocolConfig:
    """Which protocol the cell follows; :mod:`asft.protocol` says what each decides.

    ``name`` alone is part of a key. The rest are defaults that other groups' YAML reads (``attack.mix``,
    ``training.pad_to_max_length``, ``dataset.max_new_tokens``, ``seed``), where each can be overridden.
    """

    name: Literal["clean", "official"]
    mix: dict[Task, Literal["replace", "append"]]
    pad_to_max_length: bool
    label_max_new_tokens: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """How a table is laid out; its axes are the ``hydra.sweeper.params`` of the same YAML.

    Attributes:
        columns: the axis whose values are the columns.
        rows: what differs between rows: ``method``, or a swept key.
        row_labels: display names of rows, where the axis' values do not speak for themselves.
        controls: rows that do not compete for the best defence.
        paper_rows: the paper's name of a row, where it differs.
        paper_columns: the paper's name of a column that stands in for another, e.g. ``tiny_llama: llama2_7b``.
    """

    name: Name
    title: str
    columns: str
    column_title: str
    column_label: str = ""
    rows: str = "method"
    row_labels: dict[str, str] = dataclasses.field(default_factory=dict)
    paper_rows: dict[str, str] = dataclasses.field(default_factory=dict)
    controls: tuple[str, ...] = ("base", "aligned")
    paper_table: str | None = None
    paper_columns: dict[str, str] = dataclasses.field(default_factory=dict)


_PLUGINS: dict[str, type[Any]] = {"method": Method, "judge": Judge, "grader": Grader, "tracker": Tracker}
_OPTIONAL_PLUGINS: dict[str, type[Any]] = {"measure": Measure}

# Where a user may put a key by mistake: shown in no message.
_MAY_HOLD_SECRETS = {"api_key_env", "base_url"}


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class CellConfig:
    """One trained and scored configuration: everything that can change its numbers, and where it is kept."""

    model: ModelConfig
    dataset: DatasetConfig
    data: DataConfig
    attack: AttackConfig
    method: Method
    training: TrainingConfig
    evaluation: EvaluationConfig
    judge: Judge
    grader: Grader
    protocol: ProtocolConfig
    tracker: Tracker
    lam: Annotated[float, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]
    outputs: Path
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: Annotated[float, Field(ge=0)] = 60.0
    experiment: ExperimentConfig | None = None
    measure: Measure | None = None

    @property
    def graded(self) -> bool:
        """Whether FA comes from ``grader``: free-form answers on real data, for which there is no rule."""
        return self.dataset.name == "alpaca" and self.data.root is not None

    def plain(self) -> dict[str, Any]:
        """The configuration as plain data, plug-ins by name and class; what manifests and trackers keep."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tree = {name: _as_plain(part) for name, part in parts.items()}
        for name in _PLUGINS:
            tree[name] = {"name": parts[name].name, **parts[name].settings()}
        if self.measure is not None:
            tree["measure"] = {"name": self.measure.name, **self.measure.settings()}
        return {**tree, "outputs": str(self.outputs)}


def _as_plain(part: Any) -> Any:
    return dataclasses.asdict(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else part


def build_cell(tree: Mapping[str, Any]) -> CellConfig:
    """Checks a resolved configuration tree (plain dicts, as Hydra composed it) and types it.

    Raises:
        ConfigError: naming each offending key, its value and the allowed ones.
    """
    values = dict(tree)
    for key, kind in _PLUGINS.items():
        values[key] = _plugin(key, values.get(key), kind)
    for key, kind in _OPTIONAL_PLUGINS.items():
        if values.get(key) is not None:
            values[key] = _plugin(key, values[key], kind)
    cell = _validate(CellConfig, values, "")
    _cross_checks(cell)
    return cell


def _plugin(key: str, node: Any, kind: type[T]) -> T:
    """Builds a method, judge or tracker from its ``_target_``; third parties plug in here."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{key}: choose one by {key}=NAME; a {key} needs a _target_ (a class) in its YAML")
    values = {name: _nested(f"{key}.{name}", value, kind) for name, value in node.items()}
    target = str(values.pop("_target_"))
    module, _, attribute = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}._target_={target}: cannot be imported ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise ConfigError(f"{key}._target_={target}: must be a class derived from {kind.__module__}.{kind.__name__}")
    return _validate(cls, values, key)


def _nested(key: str, value: Any, kind: type[T]) -> Any:
    """A plug-in's setting; where it holds plug-ins of the same kind (an ensemble's judges), they are built first."""
    if not isinstance(value, Mapping):
        return value
    if "_target_" in value:
        return _plugin(key, value, kind)
    return {name: _nested(f"{key}.{name}", part, kind) for name, part in value.items()}


def _validate(cls: type[T], values: Mapping[str, Any], prefix: str) -> T:
    kind: Any = cls  # mypy does not see that a generic's class can be hashed
    try:
        typed: T = _adapter(kind).validate_python(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(item, prefix, cls) for item in error.errors())) from None
    return typed


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    """Built once a class; building one takes as long as composing a configuration."""
    return TypeAdapter(cls)


def _sentence(item: Any, prefix: str, cls: type[Any]) -> str:
    """One pydantic error as ``key=value: what is allowed``."""
    path = [str(part) for part in item["loc"] if str(part) not in {"organism", "pretrained", "smollm2"}]
    key = ".".join([prefix, *path] if prefix else path)
    if item["type"] == "unexpected_keyword_argument":
        allowed = _fields_at(cls, [str(part) for part in item["loc"]][:-1])
        close = difflib.get_close_matches(path[-1], allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        return f"{key}: unknown key{hint} Allowed: {', '.join(allowed)}"
    if item["type"] in {"missing", "missing_argument"}:
        return f"{key}: is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    hidden = not _MAY_HOLD_SECRETS.isdisjoint(path[-1:])
    value = "(hidden)" if hidden else textwrap.shorten(str(item["input"]), 80, placeholder=" …")
    return f"{key}={value}: {message}"


def _fields_at(cls: Any, path: list[str]) -> list[str]:
    """Field names of the dataclass that ``path`` leads to below ``cls``."""
    for part in path:
        members = getattr(cls, "__pydantic_fields__", {})
        if part in members:
            cls = members[part].annotation
        else:  # a branch of the model union, named by its source
            options: tuple[Any, ...] = getattr(cls, "__args__", ())
            cls = next((o for o in options if part in str(o.__dataclass_fields__["source"].type)), cls)
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _cross_checks(cell: CellConfig) -> None:
    """What no single field can know."""
    attack, model = cell.attack, cell.model
    if cell.outputs == Path():
        raise ConfigError("outputs=: name a folder for the results, e.g. outputs=outputs")
    if attack.source == "none" and attack.p > 0:
        raise ConfigError(f"attack.p={attack.p}: attack=none has no harmful rows; choose a source or set attack.p=0")
    if isinstance(model, SafetyTunedModel) and cell.data.root is None:
        raise ConfigError(
            f"data.root=null: model={model.name} is a real model and needs real data; "
            "set data.root to a folder in the layout of the authors' published files (docs/data.md)"
        )
    if isinstance(model, OrganismModel) and cell.data.root is not None:
        raise ConfigError(
            f"data.root={cell.data.root}: model={model.name} speaks only its embedded world; "
            "leave data.root out or choose a real model"
        )
    from asft.checks import check_cell

    try:
        check_cell(cell)
        cell.method.check(cell)
        if cell.measure is not None:
            cell.measure.check(cell)
    except ValueError as error:
        raise ConfigError(str(error)) from error
