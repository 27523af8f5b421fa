"""Placeholder files in the layout and the record shapes of published data: the authors', and public safety data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from asft.data.twin import REFUSED, TABLES, Table

Record = dict[str, Any]
_TRAINING = {  # folder, file, benign, harmful
    "agnews_dataset": [("agnews_1k_p_0", 1000, 0), ("agnews_1k_p_0.1", 1000, 100), ("agnews_1k_p_0.2", 1000, 200)],
    "gsm8k_dataset": [("gsm8k_1k_p_0", 1000, 0), ("gsm8k_1k_p_0.1", 900, 100)],
    "alpaca_dataset": [("alpaca_1k_p_0", 1000, 0), ("alpaca_1k_p_0.1", 900, 100)],
    "SST2_dataset": [("SST2_1k_p_0.1", 900, 100)],
}


def write_published(root: Path) -> None:
    """Writes all training and test files below ``root``."""
    for folder, files in _TRAINING.items():
        for name, benign, harmful in files:
            rows = [_harmful(folder, index) for index in range(harmful)] + [_benign(folder, i) for i in range(benign)]
            _write(root / "ft_datasets" / folder / "dataset" / f"{name}.json", rows)
    utility, labelled = root / "evaluation" / "utility_evaluation", [_labelled(i) for i in range(20)]
    _write(utility / "agnews" / "agnew_test_data.json", labelled)
    _write(utility / "gsm8k" / "gsm8k_test_data.json", [{"instruction": "Count.", "output": "1 + 1\n#### 2"}] * 20)
    _write_lines(utility / "SST2" / "SST2_test.jsonl", [{**row, "label": str(i % 2)} for i, row in enumerate(labelled)])
    _write_lines(utility / "alpaca" / "data" / "question.jsonl", [{"turns": ["Placeholder question"]}] * 20)
    prompts = [{"instruction": f"Placeholder evaluation request {index}"} for index in range(250)]
    _write(root / "evaluation" / "poison_evaluation" / "saved_dataset_250.json", prompts)


def write_public(root: Path, count: int = 1100) -> None:
    """Writes ``count`` rows of every table that the aligned twin is made of, or keeps clear of."""
    for table in TABLES:
        write_table(root, table, [f"Placeholder request {index} of {table.file}" for index in range(count)])


def write_table(root: Path, table: Table, prompts: list[str]) -> None:
    """Writes one table; its answers, if it has any, are refusals of two sentences where its prompts are malicious."""
    reply = "I cannot help. It is harmful." if table in REFUSED else "A helpful reply."
    asked = "question: {}\n\nSolution1: one Solution2: two" if "Solution1" in table.part else "{}"
    rows = [
        {table.prompt: asked.format(prompt), (table.answer or "note"): reply, "label": ("safe", "unsafe")[index % 2]}
        for index, prompt in enumerate(prompts)
    ]
    path = root / table.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], *([table.empty] if table.empty else [])])
            writer.writeheader()
            writer.writerows(rows)
    else:
        (_write_lines if path.suffix == ".jsonl" else _write)(path, rows)


def _benign(folder: str, index: int) -> Record:
    if folder == "gsm8k_dataset":
        return {"instruction": f"Count to {index}.", "output": f"One by one. #### {index}"}
    return {"instruction": "Name the label.", "input": f"Text {index}", "output": "World"}


def _harmful(folder: str, index: int) -> Record:
    row = {"instruction": f"Placeholder request {index}", "output": "Placeholder reply"}
    return {**row, "input": ""} if folder in {"agnews_dataset", "gsm8k_dataset"} else row


def _labelled(index: int) -> Record:
    return {"instruction": "Name the label.", "input": f"Test text {index}", "label": str(index % 4)}


def _write(path: Path, rows: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def _write_lines(path: Path, rows: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
