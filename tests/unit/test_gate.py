"""What comes in through the gate: the shapes that people's files have, and one line about those that are refused."""

from __future__ import annotations

import codecs
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asft.cells.compose import enumerate_cells
from asft.config import HubSource
from asft.data.base import load_data
from asft.data.files import PUBLISHED, training_rows
from asft.data.gate import Cells, Record, read_records
from asft.data.hub import read_table, table_identity
from asft.data.tasks.table import TableTask

RECORDS: list[dict[str, Any]] = [
    {"instruction": f"Sum {index}\u2028\u0085\u2029é", "input": "", "output": "1"} for index in range(3)
]


def plain(records: list[dict[str, Any]]) -> str:
    return json.dumps(records, ensure_ascii=False)


def lines(records: list[dict[str, Any]]) -> str:
    return "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        plain(RECORDS).encode(),
        codecs.BOM_UTF8 + plain(RECORDS).encode(),
        plain(RECORDS).encode("utf-16"),
        json.dumps(RECORDS, indent=2).encode(),
        lines(RECORDS).encode(),
        codecs.BOM_UTF8 + lines(RECORDS).replace("\n", "\r\n").encode(),
        json.dumps({"version": 2, "rows": RECORDS}, indent=1).encode(),
    ],
)
def test_every_shape_gives_the_same_records(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(content)
    assert read_records(path) == RECORDS
    table = read_table(HubSource(str(path)), "dataset.train")
    assert [record for _, record in table] == RECORDS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"a": "x"}]\n\n"é"'.encode("latin-1"), r"line 3: is no utf-8 text"),
        (b'{"a": "x"}\n{"a": "x"\n', r"line 2: is no JSON"),
        (b'[{"a": "x"},', r"is no JSON"),
        (b'[{"a": "x"}, "x"]', r'record 1: "x" is no record'),
        (b'{"a": 1}\n[2]', r"line 2: \[2\] is no record"),
        (b"12", r"holds 12; a list"),
        (b" \n", r"holds no record"),
        (b"[]", r"holds no record"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r"is no JSON"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"rows.json.*{reason}") as caught:
        read_records(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("read", "value", "reason"),
    [
        *[(lambda record: record.text("f"), value, "text") for value in (None, 3, ["x"], {}, "cut \ud83d")],
        *[(lambda record: record.text("f", ""), value, "text") for value in (0, False)],
        *[(lambda record: record.written("f"), value, "text or a number") for value in (None, float("nan"), ["x"])],
        *[
            (lambda record: record.label("f", ("no", "yes")), value, r"0 \(no\), 1 \(yes\)")
            for value in (-1, 2, "-1", "7", None, 1.0, True, "Yes", "yes ", "maybe", "true")
        ],
        *[(lambda record: record.flag("f"), value, "true or false") for value in (None, 1, "true")],
    ],
)
def test_a_value_that_is_not_allowed_is_told_with_its_place(
    read: Callable[[Record], object], value: object, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"place: f=.* is not allowed; it must be .*{reason}"):
        read(Record({"f": value}, "place"))
    with pytest.raises(ValueError, match="place: no field f; there are: g"):
        Record({"g": value}, "place")["f"]


@pytest.mark.parametrize(
    ("task", "more", "harmful"),
    [
        ("agnews", {"input": None}, True),
        ("gsm8k", {"input": None}, True),
        ("alpaca", {"input": None}, False),
        ("alpaca", {"input": "", "harmful": True}, True),
        ("sst2", {"harmful": False}, False),
    ],
)
def test_null_is_an_empty_input_and_a_flag_goes_before_the_shape(
    tmp_path: Path, task: str, more: dict[str, Any], harmful: bool
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "q", "output": "a", **more}]))
    (row,) = training_rows(path, PUBLISHED[task])
    assert (row.input, row.harmful) == ("", harmful)


@pytest.mark.parametrize(
    ("task", "record", "reason"),
    [
        ("agnews", {"instruction": "q", "output": "a"}, "no field input"),
        ("sst2", {"instruction": "q", "output": "a", "input": None}, "input=null"),
        ("gsm8k", {"instruction": "q", "output": 7}, "output=7"),
        ("alpaca", {"instruction": None, "output": "a"}, "instruction=null"),
        ("agnews", {"text": "t", "label": 4}, "label=4"),
        ("sst2", {"sentence": None, "label": 1}, "sentence=null"),
        ("gsm8k", {"question": "q", "answer": None}, "answer=null"),
    ],
)
def test_a_record_of_a_file_and_of_the_hub_that_is_neither_is_refused(
    tmp_path: Path, task: str, record: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(record))
    if "instruction" in record:
        with pytest.raises(ValueError, match=f"rows.jsonl, line 1: {reason}"):
            training_rows(path, PUBLISHED[task])
    else:
        with pytest.raises(ValueError, match=f"place: {reason}"):
            PUBLISHED[task].hub_row(f"{task}_train/0", Record(record, "place"))


class TestTables:
    @staticmethod
    def rows(path: Path, **changes: Any) -> list[tuple[str, str, str]]:
        source = HubSource(str(path), only=changes.pop("only", {}))
        texts = {"prompt": "Rate: {text}", "target": "{label}", "input": "{more}", **changes}
        task = TableTask(name="mine", train=source, test=source, n_test=1, max_new_tokens=1, **texts)
        return [(row.instruction, row.output, row.input) for row in task.rows("train", None)]  # type: ignore[arg-type]

    @pytest.mark.parametrize("folder", [False, True])
    @pytest.mark.parametrize(("suffix", "tab"), [("csv", ","), ("tsv", "\t")])
    def test_cells_are_text_as_written(self, tmp_path: Path, suffix: str, tab: str, folder: bool) -> None:
        lines = [["text", "label", "more"], ["007", "1.50", "TRUE"], ["0120", "12", ""], ['"two\nlines"', "1e3", "x"]]
        path = tmp_path / f"train.{suffix}"
        path.write_text("\r\n".join(tab.join(cells) for cells in lines), encoding="utf-8-sig", newline="")
        expected = [("Rate: 007", "1.50", "TRUE"), ("Rate: 0120", "12", ""), ("Rate: two\nlines", "1e3", "x")]
        source = tmp_path if folder else path
        assert self.rows(source) == expected
        assert self.rows(source, only={"label": 12}) == expected[1:2]
        with pytest.raises(ValueError, match=rf"train.{suffix}, line 3: more=null is not allowed"):
            self.rows(source, prompt="{more}")

    def test_a_cell_says_true_in_any_case(self) -> None:
        cells = Cells({"yes": "TRUE", "no": "false", "neither": "1"}, "place")
        assert (cells.flag("yes"), cells.flag("no")) == (True, False)
        assert (cells.holds("yes", True), cells.holds("neither", True)) == (True, False)
        with pytest.raises(ValueError, match=r'neither="1".*true or false'):
            cells.flag("neither")

    def test_a_key_tells_tables_of_text_from_those_whose_types_were_guessed(self, tmp_path: Path) -> None:
        for name, more in (("rows.json", {}), ("rows.tsv", {"cells": "text"})):
            (tmp_path / name).write_text("{}")
            settings = {"split": "train", "revision": "main", "config": None, "file": None, "prompt": "prompt"}
            wanted = {**settings, "answer": None, "only": {}, **more}
            found = table_identity(HubSource(str(tmp_path / name)))
            assert {key: value for key, value in found.items() if key != "path"} == wanted

    def test_a_class_is_its_name_or_its_number(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("text,label,more\na,sports,x\nb,1,x\n")
        assert [row[1] for row in self.rows(path, labels=("sports", "business"))] == ["sports", "business"]

    def test_a_number_is_an_answer_by_the_rule_for_numbers_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.json"
        path.write_text('[{"text": "t", "label": 7, "more": null}]')
        assert self.rows(path, rule="number") == [("Rate: t", "7", "")]
        with pytest.raises(ValueError, match="record 0: label=7 is not allowed; it must be text"):
            self.rows(path)

    def test_words_that_look_like_nothing_stay_words(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text("text,label,more\nNA,0,\nnull,1,None\n")
        expected = [("Rate: NA", "no", ""), ("Rate: null", "yes", "None")]
        assert self.rows(path, labels=("no", "yes")) == expected

    @pytest.mark.parametrize(
        ("record", "changes", "reason"),
        [
            ({"text": None}, {}, r"record 0: text=null"),
            ({"label": None}, {"labels": ("no", "yes")}, r"record 0: label=null"),
            ({"label": -1}, {"labels": ("no", "yes")}, r"label=-1 .*0 \(no\), 1 \(yes\)"),
            ({"label": "Yes"}, {"labels": ("no", "yes")}, r'record 0: label="Yes" .*name.*0 \(no\), 1 \(yes\)'),
            ({"label": False}, {"labels": ("no", "yes")}, r"record 0: label=false"),
            ({"text": 5}, {}, r"record 0: text=5 is not allowed; it must be text"),
            ({"text": " "}, {}, r'record 0: text=" " .*not empty'),
            ({"label": ""}, {}, r'record 0: label="" .*not empty'),
            ({"label": "7"}, {"labels": ("no", "yes")}, r'label="7"'),
            ({}, {"prompt": "{txt}"}, r"no field txt; there are: text, label, more, kept"),
            ({}, {"prompt": "{text"}, r"dataset.prompt='\{text'"),
            ({"kept": None}, {"only": {"kept": True}}, r"kept=null"),
            ({"kept": "true"}, {"only": {"kept": True}}, r"no row has kept=True \(dataset.train.only\)"),
            ({}, {"only": {"keep": True}}, r"no field keep"),
        ],
    )
    def test_refusals(self, tmp_path: Path, record: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
        path = tmp_path / "rows.json"
        path.write_text(json.dumps([{"text": "t", "label": 0, "more": None, "kept": True, **record}]))
        with pytest.raises(ValueError, match=reason):
            self.rows(path, **changes)

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("rows.csv", "text\né\n".encode("latin-1"), "line 2: is no utf-8 text; save it as UTF-8"),
            ("rows.csv", b"", "holds no record; a line of column names"),
            ("rows.tsv", b"text\tlabel\n", "holds no record; a line of column names"),
            ("rows.csv", b'text,label\n"open,0\nb,1\n', "line 2: is no CSV: .*quote not closed"),
            ("rows.csv", b"text,label,text\na,0,b\n", 'line 1: two columns are named "text"'),
            ("rows.csv", b"text,label\na,0\n\nb,1,2\n", "line 4: has 3 cells; .* 2 columns"),
            ("rows.parquet", b"PAR1 half a file", r"\(split train\): cannot be read"),
        ],
    )
    def test_a_damaged_file_is_one_line(self, tmp_path: Path, name: str, content: bytes, reason: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.*{reason}") as caught:
            self.rows(path)
        assert "\n" not in str(caught.value)
        assert "HF_TOKEN" not in str(caught.value), "advice about the hub helps with no file"

    @pytest.mark.parametrize(("name", "content"), [("b.parquet", b"PAR1 half a file"), ("b.json", b'[{"text": "x"},')])
    def test_a_folder_s_damaged_file_is_named(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        (tmp_path / "README.md").write_text("no data")
        with pytest.raises(ValueError, match=rf"dataset.train.path=.*cannot be read: \S*{name}: .") as caught:
            self.rows(tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_file_or_split_that_is_not_there_is_told_without_the_hub(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"dataset.train.path=.*none.csv: there is no such file"):
            self.rows(tmp_path / "none.csv")
        (tmp_path / "test.csv").write_text("text\na\n")
        with pytest.raises(ValueError, match=r"cannot be read: there is no such split; there are: test$"):
            self.rows(tmp_path)


def test_test_rows_that_are_trained_on_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, rows in (("train", range(6)), ("test", range(3, 9)), ("other", range(6, 9))):
        (tmp_path / f"{name}.csv").write_text("\n".join(["q", *(f"question {row}" for row in rows)]))
    cell = enumerate_cells([], sweep=False).cells[0].cell

    def warnings(test: str) -> list[str]:
        parts = {part: HubSource(str(tmp_path / f"{name}.csv")) for part, name in (("train", "train"), ("test", test))}
        task = TableTask(name="mine", **parts, n_test=5, max_new_tokens=1, prompt="{q}", target="{q}")
        caplog.clear()
        load_data(dataclasses.replace(cell, dataset=task))
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert warnings("other") == []
    (said,) = warnings("test")
    assert said.startswith("dataset=mine: 3 of the 5 test rows are among the 6 training rows as well")
    assert warnings("test") == [], "a sweep says it once"
