"""The contracts of a task, a data source and an attack, from which third parties derive, and a cell's pools of rows."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from asft.config import AttackConfig, DataConfig, Dtype, SafetyTunedModel, Settings, TaskConfig, joined
from asft.data.gate import Record
from asft.data.rows import Choice, Row, digest, prompt_form, question, user_text
from asft.data.twin import stamps, twin_rows

Identity = dict[str, Any]
Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task(TaskConfig):
    """Base class: rows come from the cell's data source, which knows the task by its name.

    A task with rows of its own overrides :meth:`rows`, as :class:`asft.data.tasks.table.TableTask` does.

    Class attributes:
        published_folder, published_test: where the authors' repository keeps its files, for ``data=files``.
        official_dtype: number format in which ``protocol=official`` answers the test rows.
        binary: whether a credit is 0 or 1, so that FA is a share of right answers.
    """

    published_folder: ClassVar[str] = ""
    published_test: ClassVar[str] = ""
    official_dtype: ClassVar[Dtype] = "bfloat16"
    binary: ClassVar[bool] = True

    @property
    def own_rows(self) -> bool:
        """Whether rows do not come from the cell's data source."""
        return type(self).rows is not Task.rows

    def rows(self, part: Part, data: DataSource) -> list[Row]:
        """The task's rows, each once, in an order that does not change; the gold label of a test row in ``output``."""
        return data.task_rows(self, part)

    def identity(self, part: Part, data: DataSource) -> dict[str, Any]:
        """What :meth:`rows` is a function of, for content keys; of a task's own rows the rows themselves."""
        return {"rows": digest(self.rows(part, data))} if self.own_rows else data.task_identity(self, part)

    def graded(self, data: DataSource) -> bool:
        """Whether answers have no rule on these rows and are graded by ``grader``."""
        return False

    def credit(self, row: Row, answer: str) -> float:
        """The answer's credit in [0, 1] by the task's rule; FA is 100 times the mean."""
        raise TypeError(f"{type(self).__name__} must define credit()")

    def hub_row(self, key: str, record: Record) -> Row:
        """A row of the task's dataset on the Hugging Face hub."""
        raise ValueError(f"dataset={self.name}: data=hub knows no dataset of it; choose a task with rows of its own")

    def published_harmful(self, record: Record) -> bool:
        """Whether a record of the authors' training files is one of their harmful rows, told by its shape."""
        return "input" not in record

    def published_answer(self, record: Record) -> str:
        """The answer of a record of the authors' training files."""
        return record.text("output")

    def published_gold(self, record: Record) -> str:
        """The gold label of a record of the authors' test file."""
        return record.text("output")

    def published_test_row(self, key: str, record: Record) -> Row:
        """A row of the authors' test file."""
        return Row(key, record.text("instruction"), self.published_gold(record), input=record.text("input", ""))


@dataclass(frozen=True)
class DataSource(DataConfig):
    """Base class. Rows come in an order that does not change, and never twice in one pool.

    Class attributes:
        synthetic: whether rows are the embedded world's, which only its own pairs understand.
        pools_know_evaluation: whether :meth:`pools_identity` holds the evaluation, whose prompts no pool keeps.
    """

    synthetic: ClassVar[bool] = False
    pools_know_evaluation: ClassVar[bool] = True

    def task_rows(self, task: Task, part: Part) -> list[Row]:
        """A task's training or test rows, gold label in ``output``."""
        raise TypeError(f"{type(self).__name__} must define task_rows()")

    def benign(self, task: Task, count: int) -> list[Row]:
        """Training rows to draw ``count`` from; where :meth:`task_rows` are fewer a source may have more elsewhere."""
        return self.task_rows(task, "train")

    def harmful(self, source: str) -> list[Row]:
        """Harmful rows of a source, with compliant answers; ValueError for a source that is not known here."""
        raise TypeError(f"{type(self).__name__} must define harmful()")

    def evaluation(self) -> list[Row]:
        """The malicious prompts of the harmful score, without answers."""
        raise TypeError(f"{type(self).__name__} must define evaluation()")

    def safety(self) -> list[Row]:
        """Malicious prompts with refusals, for defences that train on some; none of them in the evaluation."""
        raise TypeError(f"{type(self).__name__} must define safety()")

    def look_alikes(self) -> list[Row]:
        """Harmless prompts that sound like malicious ones, for over-refusal; ValueError where there are none."""
        raise ValueError(f"data={self.name}: has no harmless prompts that sound malicious")

    def choices(self) -> list[Choice]:
        """Questions with options, for ability; ValueError where there are none."""
        raise ValueError(f"data={self.name}: has no questions with options")

    def prompts(self) -> list[Row]:
        """Every row whose prompt is asked or learned by some cell: what is aligned here keeps clear of them."""
        return [*self.evaluation(), *self.harmful("harmful"), *self.safety()]

    def task_identity(self, task: Task, part: Part) -> Identity:
        """What :meth:`task_rows` is a function of; by default the rows themselves."""
        return {"rows": digest(self.task_rows(task, part))}

    def benign_identity(self, task: Task, count: int) -> Identity:
        """What :meth:`benign` is a function of."""
        return self.task_identity(task, "train")

    def evaluation_identity(self) -> Identity:
        """What :meth:`evaluation` is a function of."""
        return {"evaluation": digest(self.evaluation())}

    def probe_identity(self, probe: Literal["look_alikes", "choices"]) -> Identity:
        """What :meth:`look_alikes` or :meth:`choices` is a function of; ValueError where there are none."""
        return {probe: digest(getattr(self, probe)())}

    def pools_identity(self, source: str) -> Identity:
        """What the harmful rows of a source and the safety rows are a function of; ``none`` has no harmful rows."""
        harmful = [] if source == "none" else self.harmful(source)
        return {**self.evaluation_identity(), "safety": digest(self.safety()), "harmful": digest(harmful)}

    def mixture_rows(self, task: Task, attack: Attack) -> list[Row] | None:
        """The published mixture that ``protocol=official`` trains on, in file order; None where it is drawn instead."""
        return None

    def mixture_identity(self, task: Task, attack: Attack) -> Identity | None:
        """What :meth:`mixture_rows` is a function of; None where it is drawn."""
        return None


@dataclass(frozen=True)
class Attack(AttackConfig):
    """The choice ``attack=NAME``: the data source's harmful rows of that name.

    An attack with rows of its own overrides :meth:`rows`.
    """

    name: ClassVar[str] = "rows"

    @property
    def own_rows(self) -> bool:
        """Whether rows do not come from the cell's data source."""
        return type(self).rows is not Attack.rows

    def rows(self, data: DataSource) -> list[Row]:
        """Harmful rows with compliant answers, each once."""
        return [] if self.source == "none" else data.harmful(self.source)

    def identity(self, data: DataSource) -> Identity:
        """What :meth:`rows` and the safety rows beside them are a function of."""
        if not self.own_rows:
            return joined(data.pools_identity(self.source), source=self.source)
        return {"source": self.source, **data.pools_identity("none"), "harmful": digest(self.rows(data))}


# The configuration's schema knows the three as plain settings alone.
def source_of(settings: Settings) -> DataSource:
    """The data source."""
    assert isinstance(settings.data, DataSource), "a cell is built from plug-ins"
    return settings.data


def task_of(settings: Settings) -> Task:
    """The task."""
    assert isinstance(settings.dataset, Task), "a cell is built from plug-ins"
    return settings.dataset


def attack_of(settings: Settings) -> Attack:
    """The attack."""
    assert isinstance(settings.attack, Attack), "a cell is built from plug-ins"
    return settings.attack


def twin_of(settings: Settings) -> list[Row]:
    """The rows that the aligned side is made of, where it is made here; no prompt of the data source's is among them.

    ValueError when files are missing.
    """
    model, source = settings.model, source_of(settings)
    if not isinstance(model, SafetyTunedModel):
        return []
    place = repr((model, stamps(model), source, source.pools_identity("harmful")))
    if place not in _twins:
        _twins[place] = twin_rows(model, source.prompts())
    return _twins[place]


_twins: dict[str, list[Row]] = {}


@dataclasses.dataclass(frozen=True)
class Data:
    """The pools of one cell, or of all cells with a task and an attack.

    Attributes:
        train: benign rows of the task.
        test: rows whose answers are scored, gold label in ``output``.
        harmful: rows of the attack's source, with compliant answers.
        evaluation: malicious prompts of the harmful score, without answers.
        safety: malicious prompts with refusals, for defences that train on some.
        twin: what the aligned side learned, where it is made here.
        source: where further prompts are asked for.
        left_out: how many rows each pool lost, since another one has their prompts.
    """

    train: list[Row]
    test: list[Row]
    harmful: list[Row]
    evaluation: list[Row]
    safety: list[Row]
    twin: list[Row]
    source: DataSource
    left_out: dict[str, int]

    def unlearned(self, rows: Sequence[Row]) -> list[Row]:
        """Those whose prompts the aligned side did not learn here."""
        learned = {prompt_form(user_text(row)) for row in self.twin}
        return [row for row in rows if prompt_form(user_text(row)) not in learned]


def benign_identity(settings: Settings) -> Identity:
    """What the rows that the attack's benign ones are drawn from are a function of."""
    source, task = source_of(settings), task_of(settings)
    own = task.own_rows
    return task.identity("train", source) if own else source.benign_identity(task, settings.attack.benign_count())


@functools.cache
def _warn_once(message: str) -> None:
    """A sweep loads the same rows for many cells."""
    log.warning(message)


def _train(source: DataSource, task: Task, attack: Attack) -> list[Row]:
    """The rows that an attack's benign ones are drawn from."""
    return task.rows("train", source) if task.own_rows else source.benign(task, attack.benign_count())


def gather(source: DataSource, task: Task, attack: Attack, twin: list[Row]) -> Data:
    """All pools of a task and an attack. No two of those that meet in a cell share a prompt (:func:`disjoint`)."""
    pools, left_out = disjoint(
        evaluation=source.evaluation(),
        twin=twin,
        harmful=attack.rows(source),
        safety=source.safety(),
        train=_train(source, task, attack),
    )
    return Data(**pools, test=task.rows("test", source)[: task.n_test], source=source, left_out=left_out)


def clear_of(settings: Settings) -> Identity:
    """What takes rows from the pools and is in no identity of theirs: the evaluation of files, the twin; else nothing.

    So that no mixture, and no weights, are taken for those that another evaluation or another twin leaves.
    """
    source, task, attack, twin = source_of(settings), task_of(settings), attack_of(settings), twin_of(settings)
    drawn = attack.harmful_count() > 0  # else the key of the mixture holds no pool but the task's
    if drawn and source.pools_know_evaluation and not twin:
        return {}
    known = attack.identity(source), benign_identity(settings), source.evaluation_identity(), digest(twin)
    place = repr((source, task, attack, known))
    if place not in _clear_of:
        apart = [*twin, *([] if drawn and source.pools_know_evaluation else source.evaluation())]
        pooled = [*attack.rows(source), *source.safety()]
        train = _train(source, task, attack)
        kept, apart = ([*pooled, *train], apart) if drawn else (train, [*apart, *pooled])
        met = {prompt_form(user_text(row)) for row in apart}
        lost = any(prompt_form(user_text(row)) in met for row in kept)
        _clear_of[place] = {"clear_of": digest(apart)} if lost else {}
    return _clear_of[place]


_clear_of: dict[str, Identity] = {}


def disjoint(**pools: list[Row]) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Each pool without the prompts of those before it, and how many rows that cost it.

    Prompts are compared by :func:`~asft.data.rows.prompt_form`.
    """
    met: set[str] = set()
    kept: dict[str, list[Row]] = {}
    for name, rows in pools.items():
        forms = [prompt_form(user_text(row)) or user_text(row) for row in rows]
        kept[name] = [row for row, form in zip(rows, forms, strict=True) if form not in met]
        met.update(forms)
    return kept, {name: len(rows) - len(kept[name]) for name, rows in pools.items()}


def load_data(settings: Settings) -> Data:
    """As :func:`pools`; warns of test rows that are trained on."""
    data = pools(settings)
    learned = {question(row) for row in data.train}
    if shared := sum(question(row) in learned for row in data.test):
        _warn_once(
            f"dataset={settings.dataset.name}: {shared} of the {len(data.test)} test rows are among the "
            f"{len(data.train)} training rows as well, so that FA counts what was learned by heart; let the two parts "
            "come from different rows"
        )
    return data


def pools(settings: Settings) -> Data:
    """The rows of a cell; ValueError when a file is missing or there are fewer malicious prompts than asked for."""
    task, wanted = task_of(settings), settings.evaluation.n_harmful
    data = gather(source_of(settings), task, attack_of(settings), twin_of(settings))
    if wanted > len(data.evaluation):
        raise ValueError(
            f"evaluation.n_harmful={wanted}: there are only {len(data.evaluation)} malicious prompts; ask for at most "
            "that"
        )
    return dataclasses.replace(data, evaluation=data.evaluation[:wanted])
