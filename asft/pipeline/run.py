"""``run_cell``: one configuration from model pair to scores, in five stages.

pair ▸ mixture ▸ train ▸ generate ▸ judge. Each stage's output is kept in the store under its own key
(:mod:`asft.cells.keys`) and never computed twice; changing the judge re-judges stored answers and trains nothing.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback

from asft.anchor.difference import CheckpointPair
from asft.backends.base import Answerer, Backend, Weights
from asft.cells.job import Job
from asft.config import Plugin, TrainingConfig
from asft.data.base import Data, load_data
from asft.data.loading import smaller_batch
from asft.data.protocol import Clean, protocol_of
from asft.data.rows import Row, digest, held_back
from asft.distributed.team import SharedStore, team
from asft.door import require_safetensors
from asft.measures.base import Measure, MeasureContext
from asft.methods.base import Context, Start
from asft.methods.post_hoc import PostHoc
from asft.metrics.base import Metric
from asft.models.checkpoints import same_weights
from asft.models.pair import Pair, require_embeddings, resolve_device
from asft.pipeline.answers import Questions, answer, judge_answers, questions_of, scorer
from asft.pipeline.prepare import prepare_pair
from asft.pipeline.tracked import cell_run, tracked_cell
from asft.store.entries import Entry, content_key, write_json, write_jsonl
from asft.store.meter import release_memory
from asft.store.schemas import CONFIG_FILE, DETAILS, HISTORY_FILE, ROWS_FILE, read_rows
from asft.trackers.live import LiveRun
from asft.training.trainer import TokenLoss, digests, train, trainable

log = logging.getLogger(__name__)


def run_cell(job: Job) -> Entry:
    """Computes what is missing of a cell and returns its finished entry.

    ValueError for settings that cannot work; nothing stored so far is lost.
    """
    run, measure = _Run(job), job.cell.measure
    if finished := team().first(job.find):
        run.complete()
        return finished
    team().first(run.check_judges)
    with LiveRun(job.tracker, cell_run(job)) as live:
        entry = run.measure_stage(measure) if measure else run.score(live)
        if team().rank == 0:
            live.finish(lambda: tracked_cell(entry, job))
    return entry


def rejudge_cell(job: Job) -> Entry | None:
    """The cell's verdicts on answers that are already stored; None where there are none. Nothing is trained."""
    if finished := job.find():
        return finished
    run = _Run(job)
    if not job.is_answered():
        return None
    run.check_judges()
    answers = run.answered()
    run.beside_stage(run.open_beside(n for n in run.plan.beside if run.asking(n) in answers), answers)
    return run.judge_stage(run.kept_weights(), answers)


class _Run:
    """One cell's stages. The pair and the rows are loaded once, and only if a stage needs them.

    Of several processes each goes through the stages. All train and answer; the rest is done by the first.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.cell, self.plan = job, job.cell, job.plan
        self.store = SharedStore(job.options.outputs)

    @cached_property
    def pair(self) -> Pair:
        return team().first(partial(prepare_pair, self.job))

    @cached_property
    def data(self) -> Data:
        return team().first(partial(load_data, self.cell))

    @cached_property
    def protocol(self) -> Clean:
        return protocol_of(self.cell)

    @cached_property
    def drawn(self) -> list[Row]:
        """The rows of the attack, before the method adds its own."""
        return self.protocol.mixture(self.data)

    @cached_property
    def start(self) -> Path:
        """The checkpoint that training begins from, made here where it is neither side of the pair."""
        start, pair = self.cell.method.start(), self.pair
        if not isinstance(start, Start):
            return pair.path(start)

        required = {name: entry.path for name, entry in self.required.items()}

        def produce(folder: Path) -> dict[str, Any]:
            told = start.make(pair, folder, self.device, required)
            require_safetensors(folder, f"start={start.name}")
            if same_weights(pair.path(start.side), folder):
                raise ValueError(f"start={_shown(start)}: is the {start.side} model unchanged; raise its strength")
            return told

        assert self.plan.start is not None, "a start of its own has settings"
        return self.store.ensure("stages/start", self.plan.start, produce).path

    @cached_property
    def required(self) -> dict[str, Entry]:
        """The trained weights that the method needs of other cells."""
        cell = self.cell
        if cell.method.overrides("check_modules"):
            sides = CheckpointPair(self.pair.base, self.pair.aligned, cell.training.target_modules, allow_equal=True)
            shapes = {name: (module.out_features, module.in_features) for name, module in sides.modules.items()}
            cell.method.check_modules(shapes, cell)
        return {name: _Run(self.job.of(cell)).train_stage() for name, cell in cell.required().items()}

    @cached_property
    def context(self) -> Context:
        required = {name: entry.path for name, entry in self.required.items()}
        defender: list[Row] = []
        if count := self.cell.method.defender_rows(self.cell):
            defender = held_back(self.data.harmful, self.drawn, count, self.cell.seed)
        return Context(
            self.cell, self.pair, self.data, self.store.root / "anchors", self.start, required, tuple(defender)
        )

    @property
    def device(self) -> torch.device:
        return resolve_device(self.job.device)

    def score(self, live: LiveRun) -> Entry:
        """Trained, asked and judged; the cell's own training is shown while it runs.

        Where all its answers are stored and the weights are gone, nothing is trained: not for scores beside its own.
        """
        self.check_asking()
        answers, weights, beside = self.answered(), self.kept_weights(), list(self.plan.beside)
        if self.plan.train and weights is None:
            if answers.keys() >= self.cell.metrics.keys():
                beside = [name for name in beside if self.asking(name) in answers]
            else:
                weights = self.train_stage([live])
        opened = self.open_beside(beside)
        answers = self.generate_stages(weights, self.cell.metrics | opened)
        self.beside_stage(opened, answers)
        return self.judge_stage(weights, answers)

    def complete(self) -> None:
        """Scores beside a finished cell's own that it lacks, from its answers or its weights where they are kept."""
        if beside := self.open_beside(team().first(self.job.lacking)):
            every = self.cell.metrics | beside
            asked = {name: every[name] for name in map(self.asking, beside)}
            self.beside_stage(beside, self.generate_stages(self.kept_weights(), asked))

    def kept_weights(self) -> Entry | None:
        """The trained weights where there are any, each byte checked."""
        if self.plan.train is None:
            return None
        return self.store.find("stages/train", content_key(self.plan.train), whole=True)

    def asking(self, name: str) -> str:
        """The metric whose answers one beside the cell's own scores; itself, where it asks."""
        return self.cell.beside[name].reads() or name

    def open_beside(self, names: Iterable[str]) -> dict[str, Metric]:
        """Those that can be scored here; what cannot is told, and holds up no cell."""
        found: dict[str, Metric] = {}
        for name in names:
            metric = self.cell.beside[name]
            try:
                metric.check(self.cell)
                if name in self.plan.asked:
                    metric.rows(self.data)
            except ValueError as error:
                log.warning("%s is left out: %s", name, error)
            else:
                found[name] = metric
        return found

    def beside_stage(self, metrics: Mapping[str, Metric], answers: Mapping[str, Entry]) -> None:
        """Scores of which no cell's key knows."""
        for name, metric in metrics.items():
            settings = self.plan.beside[name]
            kept = self.store.resumable("beside", content_key(settings))
            produce = partial(judge_answers, self.cell, name, metric, answers[self.asking(name)], kept=kept)
            self.store.ensure("beside", settings, produce)

    def check_judges(self) -> None:
        """Refuses a metric that cannot be scored here, before hours go into what it would judge."""
        for metric in self.cell.metrics.values():
            metric.check(self.cell)

    def check_asking(self) -> None:
        """Refuses a backend that cannot work here, and a model too short for a jailbreak's disguise."""
        if team().first(self.job.is_answered):
            return
        self.cell.backend.check()
        if self.cell.jailbreak.acts:  # without the method's text, which may need trained weights
            for metric in self.cell.metrics.values():
                questions_of(self.cell, metric, self.pair, self.data)

    def answered(self) -> dict[str, Entry]:
        return team().first(self.job.answered)

    def mixture_stage(self) -> Entry:
        """The rows the fine-tune sees, with each row's harmful flag and a digest over all of them."""
        assert self.plan.mixture is not None, "only methods that train have a mixture"

        def produce(folder: Path) -> dict[str, Any]:
            rows = self.cell.method.mixture(list(self.drawn), self.context)
            if self.cell.method.overrides("mixture") and rows == self.drawn:
                self.refuse_idle("mixture() left the rows as they were")
            write_jsonl(folder / ROWS_FILE, map(asdict, rows))
            counts = {"rows": len(rows), "harmful": sum(row.harmful for row in rows), "left_out": self.data.left_out}
            return {**counts, "sha256": digest(rows)}

        return self.store.ensure("stages/mixture", self.plan.mixture, produce)

    def train_stage(self, watchers: Sequence[TrainerCallback] = ()) -> Entry:
        """The fine-tuned weights: trained, or another method's, changed after the fact."""
        assert self.plan.train is not None, "only methods that train have weights of their own"
        if finished := self.store.find("stages/train", content_key(self.plan.train), whole=True):
            return finished
        # Too few rows are told at once, and not after minutes in which a pair is made.
        self.cell.method.check_rows(self.drawn, self.data, self.cell)
        # What a stage needs is made before its clock starts, so that its seconds are its own.
        self.context  # noqa: B018
        if isinstance(self.cell.method, PostHoc):
            entry = self.store.ensure("stages/train", self.plan.train, partial(self._derive, self.required["after"]))
        else:
            produce = partial(self._train, self.mixture_stage(), watchers)
            entry = self.store.ensure_together("stages/train", self.plan.train, produce)
        release_memory()  # the model, which callbacks and its own forward() hold in circles
        return entry

    def _train(self, mixture: Entry, watchers: Sequence[TrainerCallback], folder: Path) -> dict[str, Any]:
        """Fine-tunes; one process halves a batch that does not fit into memory and keeps the effective batch."""
        training = self.protocol.training
        smaller: dict[str, int] = {}
        while True:
            try:
                return {**self._fit(mixture, training, watchers, folder), **smaller, **_processes()}
            except torch.OutOfMemoryError:
                if team().size > 1:  # the others are in the middle of a step
                    raise
                training = smaller_batch(training)
                smaller = {"batch_size": training.batch_size, "accumulation": training.accumulation}
            release_memory()

    def _fit(
        self, mixture: Entry, training: TrainingConfig, watchers: Sequence[TrainerCallback], folder: Path
    ) -> dict[str, Any]:
        cell, method, protocol = self.cell, self.cell.method, self.protocol
        rows = list(read_rows(mixture.path / ROWS_FILE, Row))
        tokenizer = self.pair.tokenizer()
        template = protocol.template(tokenizer)
        encoded = [template.encode_example(row, training.max_length) for row in rows]
        start = self.pair.load(self.start, self.device, protocol.training_dtype)
        require_embeddings(start, tokenizer, [row.input_ids for row in encoded])
        model = trainable(start, training, cell.seed)
        assert self.plan.train is not None, "this cell trains"
        context = replace(self.context, encoded=encoded, kept={})
        frozen_edited = self._prepare(model, context)
        callbacks = method.callbacks(model, context)
        weigh = method.token_weights(model, context)
        loss = TokenLoss(weigh) if weigh else None
        history = train(
            model,
            encoded,
            training,
            seed=cell.seed,
            pad_token=protocol.padding(tokenizer),
            device=self.device,
            order=method.order(rows, context) or protocol.order(len(rows)),
            full_batch=cell.training.batch_size if protocol.drops_last else None,
            callbacks=[*callbacks, *watchers],
            loss=loss,
            folder=self.store.resumable("stages/train", content_key(self.plan.train)),
            checkpoint_every=self.job.options.checkpoint_every,
        )
        if team().rank > 0:  # rank 0 writes
            return {}
        for part in [*callbacks, loss]:
            if not getattr(part, "acted", True):
                self.refuse_idle(f"{type(part).__name__} acted at no step")
        done = method.finish(model, context)
        if frozen_edited and done.model is None:
            raise ValueError(
                f"method={method.name}: prepare() edited frozen weights, which no adapter holds; finish() must return "
                "an adapter to the unedited start that computes the same"
            )
        (done.model or model).save_pretrained(folder)
        logged = [{name: value for name, value in row.items() if _is_finite(value)} for row in history.history]
        write_jsonl(folder / HISTORY_FILE, logged)
        acted = {name: value for name, value in logged[-1].items() if name.startswith("asft/")}
        return {"loss": history.loss, "steps": history.steps, **acted, **done.told}

    def _prepare(self, model: PreTrainedModel | PeftModel, context: Context) -> bool:
        """Lets the method edit the model; returns whether frozen weights are edited."""
        if not self.cell.method.overrides("prepare"):
            return False
        before = digests(model)
        self.cell.method.prepare(model, context)
        edited = {name for name, value in digests(model).items() if before.get(name) != value}
        if not edited:
            self.refuse_idle("prepare() left the model as it was")
        return any(name in edited and not weight.requires_grad for name, weight in model.named_parameters())

    def _derive(self, trained: Entry, folder: Path) -> dict[str, Any]:
        model = self.pair.trained(trained.path, self.start, self.device, self.protocol.training_dtype)
        done = self.cell.method.finish(model, self.context)
        (done.model or model).save_pretrained(str(folder))
        if same_weights(trained.path, folder):
            self.refuse_idle("finish() left the weights as they were")
        return {"after": trained.manifest["key"], **done.told}

    def refuse_idle(self, what: str) -> None:
        """A method that changes nothing is an error, not a result, unless its settings say that it is off."""
        if self.cell.method.acts():
            raise ValueError(
                f"method={_shown(self.cell.method)}: {what}, so this would be another method's result under its name. "
                "Raise its strength, or leave the method out."
            )

    def generate_stages(self, weights: Entry | None, metrics: Mapping[str, Metric]) -> dict[str, Entry]:
        """Answers to what each metric asks; one after another in a number format shares the loaded model."""
        plans = self.plan.generate | self.plan.asked
        entries = self.answered()
        todo = {name: metric for name, metric in metrics.items() if name in plans and name not in entries}
        if not todo:
            return entries
        if self.plan.train and weights is None:  # answers were there at first look, and are damaged
            raise ValueError(f"{', '.join(todo)}: its answers are damaged and the weights are gone; run the cell anew")
        start, trained = self.start, weights.path if weights else None  # made before a stage's clock starts
        system = self.cell.method.system_prompt(self.context)
        asked = {name: questions_of(self.cell, metric, self.pair, self.data, system) for name, metric in todo.items()}
        longest = max(questions.positions for questions in asked.values())
        ends = tuple(self.protocol.template(self.pair.tokenizer()).ends)

        def how(name: str) -> tuple[str, str]:
            return str(asked[name].dtype), self.cell.backend_of(todo[name]).name

        for _, names in itertools.groupby(sorted(asked, key=how), key=how):  # each format is loaded once
            first, *rest = names
            wanted = Weights(
                self.pair, start, trained, self.device, asked[first].dtype, longest, ends, self.cell.merges
            )
            with ExitStack() as stack:
                backend = self.cell.backend_of(todo[first])
                loaded = cache(partial(self._open, backend, wanted, stack))  # when the first metric asks, and once
                for name in (first, *rest):
                    kept = self.store.resumable("stages/generate", content_key(plans[name]))
                    kept /= weights.digest if weights else "start"
                    produce = partial(self._answer, loaded, asked[name], kept)
                    entries[name] = self.store.ensure_together("stages/generate", plans[name], produce)
        return entries

    def _open(self, backend: Backend, weights: Weights, stack: ExitStack) -> Answerer:
        return stack.enter_context(closing(backend.open(weights, self.cell.evaluation.batch_size)))

    def _answer(self, loaded: Callable[[], Answerer], asked: Questions, kept: Path, folder: Path) -> dict[str, Any]:
        return {**answer(self.cell, self.pair, loaded(), asked, kept=kept, folder=folder), **_processes()}

    def judge_stage(self, weights: Entry | None, answers: Mapping[str, Entry]) -> Entry:
        """Verdicts on every answer to the cell's own metrics, and the scores."""
        kept = self.store.resumable("cells", self.plan.key)

        def produce(folder: Path) -> dict[str, Any]:
            metrics = {
                name: judge_answers(self.cell, name, metric, answers[name], folder, kept)
                for name, metric in self.cell.metrics.items()
            }
            write_json(folder / CONFIG_FILE, self.job.plain())
            asked = {f"answers {name}": answers[name] for name in self.cell.metrics}
            return {"metrics": metrics, "stages": stages_of(train=weights, **asked)}

        return self.store.ensure("cells", self.plan.judge, produce)

    def measure_stage(self, measure: Measure) -> Entry:
        """A measure in place of scores; the fine-tunes it needs are trained, or found, first."""
        updates = {name: _Run(self.job.of(needed)).train_stage().path for name, needed in self.cell.measured().items()}
        context = MeasureContext(
            self.cell, self.pair, updates, self.device, partial(scorer, self.cell, self.pair, self.data)
        )

        def produce(folder: Path) -> dict[str, Any]:
            measured = measure.measure(context)
            write_json(folder / DETAILS, measured.details)
            write_json(folder / CONFIG_FILE, self.job.plain())
            return {"measure": measure.name, "values": measured.values, "interval": measured.interval}

        assert self.plan.measure is not None, "a cell with a measure has its settings"
        return self.store.ensure("measures", self.plan.measure, produce)


def _shown(part: Any) -> str:
    """A plug-in's name and settings, or a setting, as messages show them."""
    if not isinstance(part, Plugin):
        return str(part)
    told = ", ".join(f"{field.name}={_shown(getattr(part, field.name))}" for field in fields(part))
    return f"{part.name} ({told})" if told else part.name


def _is_finite(value: object) -> bool:
    """Whether a logged value can be stored and drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def _processes() -> dict[str, int]:
    """How many processes made a stage, where it was not one."""
    return {"processes": team().size} if team().size > 1 else {}


def stages_of(**stages: Entry | None) -> dict[str, Any]:
    """What a cell's manifest keeps of its stages, by name: where they are and what they cost."""
    return {
        name: {
            "key": entry.manifest["key"],
            "seconds": entry.seconds,
            "peak_memory_mb": entry.manifest["peak_memory_mb"],
            "gpu_peak_memory_mb": entry.manifest.get("gpu_peak_memory_mb", 0.0),
            **{name: entry.manifest[name] for name in ("versions", "device") if name in entry.manifest},
            "result": entry.result,
        }
        for name, entry in stages.items()
        if entry is not None
    }
