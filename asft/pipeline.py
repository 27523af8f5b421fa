"""``run_cell``: one configuration from model pair to scores, in five stages.

pair ▸ mixture ▸ train ▸ generate ▸ judge. Each stage's output is kept in the store under its own key
(:mod:`asft.keys`) and never computed twice; changing the judge re-judges stored answers and trains nothing.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from asft.config import CellConfig
from asft.data.mixture import digest, poison
from asft.data.rows import Row
from asft.data.sources import Data, load_data
from asft.data.templates import ChatTemplate, user_text
from asft.evaluation.accuracy import accuracy, score_task
from asft.evaluation.generate import generate
from asft.keys import Plan, plan
from asft.methods.base import Context
from asft.models import Pair, load_model, resolve_device
from asft.pairs import prepare_pair
from asft.store import HARMFUL_FILE, TASK_FILE, Entry, Store, content_key, read_jsonl, write_json, write_jsonl
from asft.training import attach_lora, train

log = logging.getLogger(__name__)
ROWS, HISTORY = "rows.jsonl", "history.jsonl"
CONFIG = "config.json"


def run_cell(cell: CellConfig) -> Entry:
    """Computes what is missing of a cell and returns its finished entry.

    Raises:
        ValueError: for settings that cannot work; nothing stored so far is lost.
    """
    run = _Run(cell, plan(cell), Store(cell.outputs))
    if finished := run.store.find("cells", run.plan.key):
        return finished
    run.check_judges()
    weights = run.train_stage() if cell.method.trains else None
    answers = run.generate_stage(weights)
    entry = run.judge_stage(weights, answers)
    run.track(weights, entry)
    return entry


def rejudge_cell(cell: CellConfig) -> Entry | None:
    """The cell's verdicts on answers that are already stored; None where there are none. Nothing is trained.

    Raises:
        ValueError: when the judge cannot work.
    """
    run = _Run(cell, plan(cell), Store(cell.outputs))
    if finished := run.store.find("cells", run.plan.key):
        return finished
    answers = run.store.find("stages/generate", content_key(run.plan.generate))
    if answers is None:
        return None
    run.check_judges()
    weights = run.store.find("stages/train", content_key(run.plan.train)) if run.plan.train else None
    return run.judge_stage(weights, answers)


@dataclass(frozen=True)
class _Run:
    """One cell's stages. The pair and the rows are loaded once, and only if a stage needs them."""

    cell: CellConfig
    plan: Plan
    store: Store

    @cached_property
    def pair(self) -> Pair:
        return prepare_pair(self.cell, self.store)

    @cached_property
    def data(self) -> Data:
        return load_data(self.cell)

    @cached_property
    def required(self) -> Entry | None:
        """The trained weights that the method needs of another cell."""
        cell = self.cell.method.requires(self.cell)
        return _Run(cell, plan(cell), self.store).train_stage() if cell else None

    @cached_property
    def context(self) -> Context:
        required = self.required.path if self.required else None
        return Context(self.cell, self.pair, self.data, self.store.root / "anchors", required)

    @cached_property
    def device(self) -> torch.device:
        return resolve_device(self.cell.device)

    def check_judges(self) -> None:
        """Refuses a judge or a grader that cannot work here, before hours go into what it would judge."""
        self.cell.judge.check()
        if self.cell.graded:
            self.cell.grader.check()

    def mixture_stage(self) -> Entry:
        """The rows the fine-tune sees, with each row's harmful flag and a digest over all of them."""
        assert self.plan.mixture is not None, "only methods that train have a mixture"

        def produce(folder: Path) -> dict[str, Any]:
            rows = poison(self.data.train, self.data.harmful, self.cell.attack, self.cell.seed)
            rows = self.cell.method.mixture(rows, self.context)
            write_jsonl(folder / ROWS, map(asdict, rows))
            return {"rows": len(rows), "harmful": sum(row.harmful for row in rows), "sha256": digest(rows)}

        return self.store.ensure("stages/mixture", self.plan.mixture, produce)

    def train_stage(self) -> Entry:
        """The fine-tuned weights: trained, or taken from the parent method and changed after the fact."""
        assert self.plan.train is not None, "only methods that train have weights of their own"
        if finished := self.store.find("stages/train", content_key(self.plan.train)):
            return finished
        # What a stage needs is made before its clock starts, so that its seconds are its own.
        required = self.required
        if self.cell.method.parent:
            assert required is not None, "a method with a parent requires the parent's weights"
            produce = partial(self._from_parent, required)
        else:
            produce = partial(self._train, self.mixture_stage())
        self.pair  # noqa: B018
        return self.store.ensure("stages/train", self.plan.train, produce)

    def _train(self, mixture: Entry, folder: Path) -> dict[str, Any]:
        cell, method = self.cell, self.cell.method
        rows = [Row(**row) for row in read_jsonl(mixture.path / ROWS)]
        tokenizer = self.pair.tokenizer()
        template = ChatTemplate(tokenizer)
        encoded = [template.encode_example(row, cell.training.max_length) for row in rows]
        model: PreTrainedModel | PeftModel = self.pair.load(method.start(), self.device)
        if cell.training.name == "lora":
            model = attach_lora(model, cell.training, cell.seed)
        assert tokenizer.pad_token_id is not None
        history = train(
            model,
            encoded,
            cell.training,
            seed=cell.seed,
            pad_token=tokenizer.pad_token_id,
            device=self.device,
            order=method.order(rows, self.context),
            callbacks=method.callbacks(model, self.context),
            scratch=folder / "trainer",
        )
        extra = method.finish(model, self.context)
        model.save_pretrained(folder)
        write_jsonl(folder / HISTORY, history.history)
        acted = {name: value for name, value in history.history[-1].items() if name.startswith("asft/")}
        return {"loss": history.loss, "steps": history.steps, **acted, **extra}

    def _from_parent(self, parent: Entry, folder: Path) -> dict[str, Any]:
        start = self.pair.load(self.cell.method.start(), self.device)
        model = PeftModel.from_pretrained(start, str(parent.path))
        extra = self.cell.method.finish(model, self.context)
        model.save_pretrained(str(folder))
        return {"parent": parent.manifest["key"], **extra}

    def generate_stage(self, weights: Entry | None) -> Entry:
        """Greedy answers to the malicious prompts and to the task's test rows."""
        if finished := self.store.find("stages/generate", content_key(self.plan.generate)):
            return finished
        self.pair  # noqa: B018  # made before the stage's clock starts: building it can take minutes

        def produce(folder: Path) -> dict[str, Any]:
            tokenizer = self.pair.tokenizer()
            template = ChatTemplate(tokenizer)
            system = self.cell.method.system_prompt(self.context)
            model = self._model(weights)
            parts = (
                (HARMFUL_FILE, self.data.evaluation, self.cell.evaluation.harmful_max_new_tokens),
                (TASK_FILE, self.data.test, self.cell.dataset.max_new_tokens),
            )
            for name, rows, tokens in parts:
                prompts = [template.encode_prompt(replace(row, system=system)) for row in rows]
                answers = generate(
                    model,
                    tokenizer,
                    prompts,
                    max_new_tokens=tokens,
                    batch_size=self.cell.evaluation.batch_size,
                )
                write_jsonl(folder / name, _answered(rows, answers))
            return {"harmful": len(self.data.evaluation), "task": len(self.data.test)}

        return self.store.ensure("stages/generate", self.plan.generate, produce)

    def judge_stage(self, weights: Entry | None, answers: Entry) -> Entry:
        """Verdicts on every answer, and the two scores of the paper."""

        def produce(folder: Path) -> dict[str, Any]:
            harmful = list(read_jsonl(answers.path / HARMFUL_FILE))
            verdicts = self.cell.judge.judge([row["prompt"] for row in harmful], [row["answer"] for row in harmful])
            task = list(read_jsonl(answers.path / TASK_FILE))
            scored, grading = self._score(task)
            credits = [row["credit"] for row in scored if row["credit"] is not None]
            pairs = zip(harmful, verdicts, strict=True)
            write_jsonl(folder / HARMFUL_FILE, ({**row, **asdict(verdict)} for row, verdict in pairs))
            write_jsonl(folder / TASK_FILE, scored)
            flagged = sum(verdict.flagged for verdict in verdicts)
            metrics = {
                "hs": 100 * flagged / len(verdicts),
                "fa": accuracy(credits),
                "hs_flagged": flagged,
                "hs_total": len(verdicts),
                "fa_total": len(credits),
            }
            write_json(folder / CONFIG, self.cell.plain())
            told = {"judge": self.cell.judge.summary(verdicts), **grading}
            return {"metrics": metrics, **told, "stages": self._stages(weights, answers)}

        return self.store.ensure("cells", self.plan.judge, produce)

    def _score(self, task: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The task's answers with their credit in [0, 1], by the task's rule or by the grader (None: no grade)."""
        answers = [row["answer"] for row in task]
        if self.cell.graded:
            grades = self.cell.grader.grade([row["prompt"] for row in task], answers)
            graded = [
                {
                    **row,
                    "credit": None if grade.value is None else grade.value / 10,
                    "reason": grade.reason,
                    **grade.details,
                }
                for row, grade in zip(task, grades, strict=True)
            ]
            return graded, {"grader": self.cell.grader.summary(grades)}
        gold = [Row(id=row["id"], instruction=row["prompt"], output=row["gold"]) for row in task]
        credits = score_task(self.cell.dataset.name, gold, answers)
        return [{**row, "credit": credit} for row, credit in zip(task, credits, strict=True)], {}

    def track(self, weights: Entry | None, entry: Entry) -> None:
        """Shows the finished cell to the tracker; the cell is safe in the store whatever the tracker does."""
        history = list(read_jsonl(weights.path / HISTORY)) if weights and not self.cell.method.parent else []
        folder = self.store.root / self.cell.tracker.name
        try:
            self.cell.tracker.track(self.plan.key, self.cell.plain(), history, entry.result["metrics"], folder)
        except Exception as error:  # a tracker is third-party code and often a network
            log.warning("tracker=%s: this cell was not tracked: %s", self.cell.tracker.name, error)

    def _model(self, weights: Entry | None) -> PreTrainedModel:
        """The model to be asked: a checkpoint as it is, a fully tuned model, or an adapter merged into its start."""
        if weights is None:
            return self.pair.load(self.cell.method.start(), self.device)
        if not (weights.path / "adapter_config.json").exists():
            return load_model(weights.path, self.pair.dtype, self.device)
        start = self.pair.load(self.cell.method.start(), self.device)
        adapted = PeftModel.from_pretrained(start, str(weights.path))
        merged: PreTrainedModel = adapted.merge_and_unload()
        return merged

    def _stages(self, weights: Entry | None, answers: Entry) -> dict[str, Any]:
        """Where the cell's parts are and what they cost."""
        used = {"train": weights, "generate": answers}
        return {
            name: {
                "key": entry.manifest["key"],
                "seconds": entry.seconds,
                "peak_memory_mb": entry.manifest["peak_memory_mb"],
                "result": entry.result,
            }
            for name, entry in used.items()
            if entry is not None
        }


def _answered(rows: list[Row], answers: list[str]) -> list[dict[str, str]]:
    return [
        {"id": row.id, "prompt": user_text(row), "gold": row.output, "answer": answer}
        for row, answer in zip(rows, answers, strict=True)
    ]
