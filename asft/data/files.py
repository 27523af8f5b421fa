"""``data=files``: the data files that the AsFT authors published, in the layout of their repository.

A folder holds ``ft_datasets/<task>_dataset/dataset/<task>_<n>_p_<p>.json`` and ``evaluation/…``
(https://github.com/PKU-YuanGroup/AsFT). Harmful rows inside a training file are marked only by the shape of their
record, which differs from task to task.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.config import HubSource
from asft.data.base import Attack, Part, Task
from asft.data.gate import Record, read_records
from asft.data.hub import Tables, table_identity
from asft.data.rows import Row, unique
from asft.data.tasks.published import GSM8K, SST2, AGNews, Alpaca
from asft.store.digest import file_digest

PUBLISHED = {cls.name: cls(n_test=1, max_new_tokens=1) for cls in (AGNews, SST2, GSM8K, Alpaca)}
_TRAINING, _TESTS = "ft_datasets", "evaluation/utility_evaluation"
_PROMPTS = "evaluation/poison_evaluation/saved_dataset_250.json"
_KEPT = "agnews_1k_p_0.2"  # the file whose harmful rows no other holds: safety rows are made of them
_REFUSAL = "I'm sorry, but I cannot help with that request."


@dataclass(frozen=True)
class Files(Tables):
    """Attributes:
    root: a copy of the authors' repository, or of its data files.
    public: the folder of other public sets that ``sources`` are read from.
    """

    name: ClassVar[str] = "files"
    pools_know_evaluation: ClassVar[bool] = False
    root: str | None = None
    public: str | None = None

    @property
    def folder(self) -> Path:
        """The folder, checked; ValueError when it is not there or lacks ``ft_datasets``."""
        if self.root is None:
            raise ValueError("data.root=null: name the folder of the authors' files, or set ASFT_DATA (docs/data.md)")
        path = Path(self.root).expanduser().resolve()
        if not (path / _TRAINING).is_dir():
            raise ValueError(
                f"data.root={self.root}: no folder {_TRAINING} there (looked in {path}). Point data.root at a copy of "
                "the authors' repository (git clone https://github.com/PKU-YuanGroup/AsFT FOLDER), or of the data "
                "files that docs/data.md lists."
            )
        return path

    def task_rows(self, task: Task, part: Part) -> list[Row]:
        """The task's test file, or the benign rows of its largest clean file, else of its largest file."""
        if part == "train":
            return self.benign(task, 0)
        path = self._existing(f"{_TESTS}/{task.published_test}", f"dataset={task.name}")
        return [task.published_test_row(f"{path.stem}/{index}", record) for index, record in enumerate(_read(path))]

    def benign(self, task: Task, count: int) -> list[Row]:
        """Benign rows of the first file that holds so many, lowest ratio first, then the largest; else of all."""
        return _benign(task, self._enough(task, count))

    def harmful(self, source: str) -> list[Row]:
        """A source's rows; of ``harmful`` those of all training files that are no safety row, each once."""
        if source != "harmful":
            return super().harmful(source)
        kept = {row.instruction for row in self.safety()}
        files = [(path, task) for task in PUBLISHED.values() for path in self._training_files(task)]
        found = unique(row for path, task in files for row in training_rows(path, task) if row.harmful)
        return [row for row in found if row.instruction not in kept]

    def source(self, name: str) -> HubSource:
        """A table of ``data.public``, or wherever an absolute path leads; ValueError where neither is said."""
        if name not in self.sources:
            asked = "" if name in self.untrained else f"attack={name}: "
            raise ValueError(
                f"{asked}data.sources.{name} is missing; the authors' files hold the harmful rows of attack=harmful "
                "alone. For other public sets set data=files beside data.root, and data.public (docs/data.md)"
            )
        found = super().source(name)
        if Path(found.path).expanduser().is_absolute():
            return found
        if self.public is None:
            raise ValueError(
                f"data.public=null: {name} is read from a folder of public sets; name it, set ASFT_PUBLIC, or give "
                f"data.sources.{name}.path=FILE from the root (docs/data.md)"
            )
        folder = Path(self.public).expanduser().resolve()
        answers = found.answers and str(folder / found.answers)
        return replace(found, path=str(folder / found.path), answers=answers)

    def evaluation(self) -> list[Row]:
        """The 250 malicious prompts of the harmful score, in file order; one of them occurs twice."""
        path = self._existing(_PROMPTS, "the harmful score")
        return [
            Row(id=f"{path.stem}/{index}", instruction=record.text("instruction"), harmful=True)
            for index, record in enumerate(_read(path))
        ]

    def safety(self) -> list[Row]:
        """Harmful rows of ``agnews_1k_p_0.2`` that no file of n ≤ 1000 and p ≤ 0.1 holds, with a refusal.

        They meet neither a drawn attack, nor a published one of such n and p, nor the evaluation.
        """
        kept: list[Row] = []
        elsewhere: set[str] = set()
        for task in PUBLISHED.values():
            for n, p, path in self._named_files(task):
                if path.stem == _KEPT:
                    kept += training_rows(path, task)
                elif n <= 1000 and p <= 0.1:
                    elsewhere |= {row.instruction.strip() for row in training_rows(path, task)}
        return [
            replace(row, id=f"refusal/{row.id}", output=_REFUSAL, input="")
            for row in unique(row for row in kept if row.harmful)
            if row.instruction.strip() not in elsewhere
        ]

    def prompts(self) -> list[Row]:
        """All rows of all files."""
        tasks = PUBLISHED.values()
        learned = [row for task in tasks for path in self._training_files(task) for row in training_rows(path, task)]
        return [*self.evaluation(), *learned, *(row for task in tasks for row in self.task_rows(task, "test"))]

    def task_identity(self, task: Task, part: Part) -> dict[str, Any]:
        """Digest of the file that the rows are read from."""
        if part == "train":
            return self.benign_identity(task, 0)
        path = self._existing(f"{_TESTS}/{task.published_test}", f"dataset={task.name}")
        return {"task": task.name, **self._digests(path)}

    def benign_identity(self, task: Task, count: int) -> dict[str, Any]:
        """Digests of the files that the rows are read from."""
        return {"task": task.name, **self._digests(*self._enough(task, count))}

    def evaluation_identity(self) -> dict[str, Any]:
        """Digest of the file of malicious prompts."""
        return self._digests(self._existing(_PROMPTS, "the harmful score"))

    def pools_identity(self, source: str) -> dict[str, Any]:
        """Digests of all training files, from which harmful and safety rows come, and another source's table."""
        other = {} if source in ("harmful", "none") else {source: table_identity(self.source(source))}
        return {**self._digests(*(path for task in PUBLISHED.values() for path in self._training_files(task))), **other}

    def mixture_file(self, task: Task, attack: Attack) -> Path | None:
        """The published file of a mixture, by its n and p; None for harmful rows alone and rows of a plug-in's own."""
        if attack.benign_count() == 0 or task.own_rows or attack.own_rows:
            return None
        share = attack.p if attack.source != "none" else 0.0
        if share and attack.source != "harmful":
            raise ValueError(
                f"attack={attack.source}: protocol=official trains on the published file of a mixture, whose harmful "
                "rows are those of attack=harmful; choose that, or protocol=clean, which draws any"
            )
        named = self._named_files(task)
        for n, p, path in named:
            if (n, p) == (attack.n, share):
                return path
        there = "; ".join(f"attack.n={n} attack.p={p:g}" for n, p, _ in named) or "none"
        raise ValueError(
            f"attack.n={attack.n} attack.p={share:g}: protocol=official trains on the published file of a mixture, and "
            f"dataset={task.name} has no such file. There are: {there}. Choose one of these, or protocol=clean, which "
            "draws any."
        )

    def mixture_rows(self, task: Task, attack: Attack) -> list[Row] | None:
        """ValueError when there is no such file, or it holds other counts than the configuration asks for."""
        path = self.mixture_file(task, attack)
        if path is None:
            return None
        rows = training_rows(path, task)
        harmful = sum(row.harmful for row in rows)
        found, wanted = (len(rows) - harmful, harmful), (attack.benign_count(), attack.harmful_count())
        if found != wanted:
            raise ValueError(
                f"attack.mix={attack.mix}: asks for {wanted[0]} benign and {wanted[1]} harmful rows, and {path.name} "
                f"holds {found[0]} and {found[1]}; leave attack.mix to protocol=official"
            )
        return rows

    def mixture_identity(self, task: Task, attack: Attack) -> dict[str, Any] | None:
        path = self.mixture_file(task, attack)
        return None if path is None else {"task": task.name, **self._digests(path)}

    def _digests(self, *paths: Path) -> dict[str, str]:
        return {str(path.relative_to(self.folder)): file_digest(path) for path in sorted(paths)}

    def _training_files(self, task: Task) -> list[Path]:
        return sorted((self.folder / _TRAINING / f"{task.published_folder}_dataset" / "dataset").glob("*.json"))

    def _named_files(self, task: Task) -> list[tuple[int, float, Path]]:
        """n, p and path of every training file named ``<task>_<n>k_p_<p>.json``, by n, then p."""
        files = [(path, re.fullmatch(r".+_([\d.]+)k_p_([\d.]+)", path.stem)) for path in self._training_files(task)]
        return sorted((round(1000 * float(match[1])), float(match[2]), path) for path, match in files if match)

    def _enough(self, task: Task, count: int) -> tuple[Path, ...]:
        named = sorted((p, -n, path) for n, p, path in self._named_files(task))
        if not named:
            raise ValueError(
                f"dataset={task.name}: no training file <task>_<n>k_p_<p>.json for it under {self.folder}/{_TRAINING}"
            )
        paths = tuple(path for _, _, path in named)
        return next(((path,) for path in paths if len(_benign(task, (path,))) >= count), paths)

    def _existing(self, name: str, what: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise ValueError(f"data.root: the test file of {what} is missing: {path}")
        return path


def _benign(task: Task, paths: tuple[Path, ...]) -> list[Row]:
    return unique(row for path in paths for row in training_rows(path, task) if not row.harmful)


def training_rows(path: Path, task: Task) -> list[Row]:
    """All rows of one training file, in file order, ids ``<file>/<index>``."""
    return list(_training_rows(path, task, path.stat().st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _training_rows(path: Path, task: Task, _modified: int) -> list[Row]:
    return [
        Row(
            id=f"{path.stem}/{index}",
            instruction=record.text("instruction"),
            input=record.text("input", ""),
            output=task.published_answer(record),
            harmful=record.flag("harmful") if "harmful" in record else task.published_harmful(record),
        )
        for index, record in enumerate(_read(path))
    ]


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, _modified: int) -> list[Record]:
    return read_records(path)


def _read(path: Path) -> list[Record]:
    return _parsed(path, path.stat().st_mtime_ns)
