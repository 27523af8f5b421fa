"""Content keys: which settings can change which stage's result.

A stage's settings are exactly those, plus the key of the stage before. Everything here is derived from the
configuration alone, so whether a cell is finished is known without running anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asft.config import CellConfig, ModelConfig, OrganismModel, PretrainedModel
from asft.data.sources import attack_identity, evaluation_identity, task_identity
from asft.methods.base import Method
from asft.store import content_key

Settings = dict[str, Any]

# Raise a stage's number when its code starts to give another result for the same settings.
CODE = {"pair": 1, "mixture": 1, "train": 1, "generate": 1, "judge": 1}


@dataclass(frozen=True)
class Plan:
    """The settings of every stage of one cell; ``mixture`` and ``train`` are None where nothing is trained."""

    pair: Settings
    mixture: Settings | None
    train: Settings | None
    generate: Settings
    judge: Settings

    @property
    def key(self) -> str:
        """The cell's key: that of its last stage."""
        return content_key(self.judge)


def plan(cell: CellConfig) -> Plan:
    """Every stage's settings, in order."""
    pair = pair_settings(cell)
    mixture = mixture_settings(cell) if cell.method.trains else None
    train = train_settings(cell, pair, mixture) if mixture is not None else None
    generate = {
        "code": CODE["generate"],
        "weights": content_key(train) if train else [content_key(pair), cell.method.start()],
        "method": cell.method.settings() if _overrides(cell.method, "system_prompt") else None,
        "evaluation": evaluation_identity(cell),
        "n_test": cell.dataset.n_test,
        "max_new_tokens": cell.dataset.max_new_tokens,
        "n_harmful": cell.evaluation.n_harmful,
        "harmful_max_new_tokens": cell.evaluation.harmful_max_new_tokens,
        "protocol": asdict(cell.protocol),
    }
    judge = {"code": CODE["judge"], "generate": content_key(generate), "judge": cell.judge.settings()}
    if cell.graded:
        judge["grader"] = cell.grader.settings()
    return Plan(pair, mixture, train, generate, judge)


def pair_settings(cell: CellConfig) -> Settings:
    """What a pair's weights depend on."""
    return _pair_settings(cell.model, cell)


def mixture_settings(cell: CellConfig) -> Settings:
    """What the training rows depend on; the method only where it adds or marks rows."""
    attack = cell.attack
    return {
        "code": CODE["mixture"],
        "task": task_identity(cell),
        "source": attack_identity(cell) if attack.harmful_count() else None,
        "benign": attack.benign_count(),
        "harmful": attack.harmful_count(),
        "seed": cell.seed,
        "method": _mixing_identity(cell) if _overrides(cell.method, "mixture") else None,
    }


def _mixing_identity(cell: CellConfig) -> Settings:
    """A method that changes the rows may draw on the safety pool, and on the tokenizer for a trigger."""
    return {
        **cell.method.settings(),
        "attack": asdict(cell.attack),
        "safety": attack_identity(cell),
        "pair": content_key(pair_settings(cell)),
    }


def train_settings(cell: CellConfig, pair: Settings, mixture: Settings) -> Settings:
    """What a trained adapter depends on; a post-hoc method depends on its parent's training."""
    required = cell.method.requires(cell)
    weights = content_key(train_settings(required, pair, mixture_settings(required))) if required else None
    if cell.method.parent is not None:
        return {"code": CODE["train"], "parent": weights, "method": cell.method.settings()}
    settings = {
        "code": CODE["train"],
        "pair": content_key(pair),
        "mixture": content_key(mixture),
        "training": asdict(cell.training),
        "protocol": asdict(cell.protocol),
        "method": cell.method.settings(),
        "seed": cell.seed,
    }
    return {**settings, "required": weights} if required else settings


def _pair_settings(model: ModelConfig, cell: CellConfig) -> Settings:
    settings = {name: value for name, value in asdict(model).items() if name not in {"name", "recipe"}}
    if isinstance(model, OrganismModel):
        from asft.organism.build import BuildRecipe
        from asft.organism.version import VERSION

        return {**settings, "world": VERSION, "recipe": asdict(BuildRecipe())}
    if isinstance(model, PretrainedModel):
        sides = {
            side: _checkpoint(Path(path).expanduser())
            for side, path in (("base", model.base), ("aligned", model.aligned))
        }
        return {**settings, **sides}
    from asft import smollm
    from asft.data import official

    root = official.data_root(str(cell.data.root))
    data = {**official.harmful_identity(root), **official.training_identity(root, "alpaca")}
    return {**settings, "code": CODE["pair"], "package": smollm.package_version(), "data": data}


def _checkpoint(path: Path) -> str | Settings:
    """A local folder's identity, or a hub id as it stands (its revision is among the settings)."""
    from asft.models import checkpoint_identity

    return checkpoint_identity(path) if path.is_dir() else str(path)


def _overrides(method: Method, hook: str) -> bool:
    """Whether a method's class defines a hook of its own, so that its settings can change the hook's result."""
    return getattr(type(method), hook) is not getattr(Method, hook)
