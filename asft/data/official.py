"""Readers of the data files that the AsFT authors published, in their own layout (methods.md §11–12).

A folder holds ``ft_datasets/<task>_dataset/dataset/<task>_<n>_p_<p>.json`` and ``evaluation/…``. The harmful
rows inside a training file are marked only by the shape of the record, which differs from task to task.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asft.data.rows import FINAL_ANSWER, Row, unique

if TYPE_CHECKING:
    from asft.config import AttackConfig

_FOLDERS = {"agnews": "agnews", "sst2": "SST2", "gsm8k": "gsm8k", "alpaca": "alpaca"}
_TEST_FILES = {
    "agnews": "evaluation/utility_evaluation/agnews/agnew_test_data.json",
    "sst2": "evaluation/utility_evaluation/SST2/SST2_test.jsonl",
    "gsm8k": "evaluation/utility_evaluation/gsm8k/gsm8k_test_data.json",
    "alpaca": "evaluation/utility_evaluation/alpaca/data/question.jsonl",
}
_HARMFUL_PROMPTS = "evaluation/poison_evaluation/saved_dataset_250.json"
_SST2_LABELS = ("negative", "positive")
_AGNEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")
_REFUSAL = "I'm sorry, but I cannot help with that request."


def data_root(root: str) -> Path:
    """The folder, checked.

    Raises:
        ValueError: when it is not there or lacks ``ft_datasets``.
    """
    path = Path(root).expanduser().resolve()
    if not (path / "ft_datasets").is_dir():
        raise ValueError(
            f"data.root={root}: no folder ft_datasets there (looked in {path}). Point data.root at a copy of the "
            "authors' repository or of its data files; docs/data.md lists them."
        )
    return path


def is_harmful(task: str, record: dict[str, Any]) -> bool:
    """Whether a record of a task's training file is one of its harmful rows."""
    if task == "agnews":
        return record.get("input") == ""
    if task == "gsm8k":
        return "input" in record
    return "input" not in record


def read_training_file(path: Path, task: str) -> list[Row]:
    """All rows of one training file, in file order, ids ``<file>/<index>``."""
    rows = []
    for index, record in enumerate(_read(path)):
        harmful = is_harmful(task, record)
        output = str(record["output"])
        if task == "gsm8k" and not harmful:
            output = output.replace("####", FINAL_ANSWER)
        rows.append(
            Row(
                id=f"{path.stem}/{index}",
                instruction=str(record["instruction"]),
                input=str(record.get("input", "")),
                output=output,
                harmful=harmful,
            )
        )
    return rows


def mixture_file(root: Path, task: str, attack: AttackConfig) -> Path:
    """The published file of a mixture, by its n and p.

    Raises:
        ValueError: when there is none, naming those there are.
    """
    share = attack.p if attack.source != "none" else 0.0
    named = _named_files(root, task)
    for n, p, path in named:
        if (n, p) == (attack.n, share):
            return path
    there = "; ".join(f"attack.n={n} attack.p={p:g}" for n, p, _ in named) or "none"
    raise ValueError(
        f"attack.n={attack.n} attack.p={share:g}: protocol=official trains on the published file of a mixture, and "
        f"dataset={task} has no such file. There are: {there}. Choose one of these, or protocol=clean, which draws any."
    )


def mixture_rows(root: Path, task: str, attack: AttackConfig) -> list[Row]:
    """The rows of a published mixture in file order.

    Raises:
        ValueError: when there is no such file, or it holds other counts than the configuration asks for.
    """
    path = mixture_file(root, task, attack)
    rows = read_training_file(path, task)
    harmful = sum(row.harmful for row in rows)
    found, wanted = (len(rows) - harmful, harmful), (attack.benign_count(), attack.harmful_count())
    if found != wanted:
        raise ValueError(
            f"attack.mix={attack.mix}: asks for {wanted[0]} benign and {wanted[1]} harmful rows, and {path.name} "
            f"holds {found[0]} and {found[1]}; leave attack.mix to protocol=official"
        )
    return rows


def mixture_identity(root: Path, task: str, attack: AttackConfig) -> dict[str, str]:
    """Digest of the published file of a mixture, and the task."""
    return {"task": task, **_digests(root, [mixture_file(root, task, attack)])}


def train_rows(root: Path, task: str) -> list[Row]:
    """Benign rows of a task: of its largest clean file, else the benign rows of its largest file."""
    path = _largest(root, task)
    return unique(row for row in read_training_file(path, task) if not row.harmful)


def harmful_rows(root: Path, source: str) -> list[Row]:
    """Unique harmful rows over all training files of the folder, which come from the source ``harmful``.

    Raises:
        ValueError: for another source, of which the authors published no file.
    """
    if source != "harmful":
        raise ValueError(f"attack={source}: the authors' files hold only the source 'harmful'; choose attack=harmful")
    rows = [
        row
        for task in _FOLDERS
        for path in _training_files(root, task)
        for row in read_training_file(path, task)
        if row.harmful
    ]
    return unique(rows)


def alignment_prompts(root: Path) -> list[Row]:
    """Malicious prompts with a refusal: those of ``agnews_1k_p_0.2`` that no other file holds.

    They meet neither an attack at p ≤ 0.1 nor the evaluation.
    """
    source = _training_files(root, "agnews")
    held = [path for path in source if path.stem == "agnews_1k_p_0.2"]
    if not held:
        return []
    elsewhere = {
        row.instruction.strip()
        for task in _FOLDERS
        for path in _training_files(root, task)
        if path.stem != "agnews_1k_p_0.2"
        for row in read_training_file(path, task)
    }
    return [
        Row(id=f"refusal/{row.id}", instruction=row.instruction, output=_REFUSAL, harmful=True)
        for row in unique(row for row in read_training_file(held[0], "agnews") if row.harmful)
        if row.instruction.strip() not in elsewhere
    ]


def test_rows(root: Path, task: str) -> list[Row]:
    """The task's test set in file order, the gold label in ``output``."""
    path = _existing(root / _TEST_FILES[task], task)
    rows = []
    for index, record in enumerate(_read(path)):
        instruction = record["turns"][0] if task == "alpaca" else record["instruction"]
        text = "" if task in {"alpaca", "gsm8k"} else str(record.get("input", ""))
        rows.append(Row(id=f"{path.stem}/{index}", instruction=instruction, input=text, output=_gold(task, record)))
    return rows


def evaluation_prompts(root: Path) -> list[Row]:
    """The 250 malicious prompts of the harmful score, in file order; one of them occurs twice."""
    path = _existing(root / _HARMFUL_PROMPTS, "the harmful score")
    return [
        Row(id=f"{path.stem}/{index}", instruction=str(record["instruction"]), harmful=True)
        for index, record in enumerate(_read(path))
    ]


def training_identity(root: Path, task: str) -> dict[str, str]:
    """Digest of the file that a task's benign rows are read from, and the task."""
    return {"task": task, **_digests(root, [_largest(root, task)])}


def harmful_identity(root: Path) -> dict[str, str]:
    """Digests of all training files, over which the harmful rows are gathered."""
    return _digests(root, [path for task in _FOLDERS for path in _training_files(root, task)])


def evaluation_identity(root: Path, task: str) -> dict[str, str]:
    """Digests of the files that are scored, and the task."""
    files = [
        _existing(root / _TEST_FILES[task], task),
        _existing(root / _HARMFUL_PROMPTS, "the harmful score"),
    ]
    return {"task": task, **_digests(root, files)}


def _digests(root: Path, files: list[Path]) -> dict[str, str]:
    return {str(path.relative_to(root)): _sha256(path, path.stat().st_mtime_ns) for path in sorted(files)}


def _gold(task: str, record: dict[str, Any]) -> str:
    if task == "alpaca":
        return ""
    if task == "sst2":
        return _SST2_LABELS[int(record["label"])]
    if task == "agnews":
        return _AGNEWS_LABELS[int(record["label"])] if "label" in record else str(record["output"])
    return str(record["output"]).replace("####", FINAL_ANSWER)


def _training_files(root: Path, task: str) -> list[Path]:
    return sorted((root / "ft_datasets" / f"{_FOLDERS[task]}_dataset" / "dataset").glob("*.json"))


def _named_files(root: Path, task: str) -> list[tuple[int, float, Path]]:
    """n, p and path of every training file named ``<task>_<n>k_p_<p>.json``, by n, then p."""
    files = [(path, re.fullmatch(r".+_([\d.]+)k_p_([\d.]+)", path.stem)) for path in _training_files(root, task)]
    return sorted((round(1000 * float(match[1])), float(match[2]), path) for path, match in files if match)


def _largest(root: Path, task: str) -> Path:
    """The file with the most benign rows: lowest ratio first, then the largest n."""
    named = [(p, -n, path) for n, p, path in _named_files(root, task)]
    if not named:
        raise ValueError(f"dataset={task}: no training file <task>_<n>k_p_<p>.json for it under {root}/ft_datasets")
    return min(named)[2]


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ValueError(f"data.root: the test file of {what} is missing: {path}")
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    records: list[dict[str, Any]] = json.loads(text)
    return records


@functools.cache
def _sha256(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
