"""The gate through which every record comes in: read whole or refused in one line, with file, place and field.

Nothing is stringified, guessed or dropped here: null is not the word "None", and -1 is no label.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Record(dict[str, Any]):
    """The fields of one record, which knows its ``place``: a file's line or index (from 0), or a table's row."""

    def __init__(self, fields: Any, place: str) -> None:
        if not isinstance(fields, dict):
            raise ValueError(f"{place}: {_shown(fields)} is no record; each must be an object with named fields")
        super().__init__(fields)
        self.place = place

    def __missing__(self, field: str) -> Any:
        raise ValueError(f"{self.place}: no field {field}; there are: {', '.join(self)}")

    def wrong(self, field: str, allowed: str) -> ValueError:
        """The error that refuses a field's value."""
        return ValueError(f"{self.place}: {field}={_shown(self.get(field))} is not allowed; it must be {allowed}")

    def text(self, field: str, default: str | None = None) -> str:
        """A field's text; ``default`` is what a missing field and null stand for, where they are allowed."""
        value = self[field] if default is None else self.get(field)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(field, "text")
        return self._whole(field, value)

    def filled(self, field: str) -> str:
        """A text that says something: what may stand in a prompt or be learned."""
        if isinstance(self[field], str) and not self[field].strip():
            raise self.wrong(field, "text that is not empty")
        return self.text(field)

    def written(self, field: str) -> str:
        """Text, or a number or truth value as it is written."""
        value = self[field]
        if not isinstance(value, str | int | float) or value != value:  # NaN is not itself
            raise self.wrong(field, "text or a number")
        return self._whole(field, str(value))

    def flag(self, field: str) -> bool:
        """A truth value."""
        if not isinstance(self[field], bool):
            raise self.wrong(field, "true or false")
        return bool(self[field])

    def label(self, field: str, names: Sequence[str]) -> str:
        """The name of a class; the field holds it, letter for letter, or its number from 0."""
        value = self[field]
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, str) and number in names:
            return number
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(names):
            allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
            raise self.wrong(field, f"a class's number or its name as it is written here: {allowed}")
        return names[number]

    def holds(self, field: str, value: bool | int | str) -> bool:
        """Whether a field has this value."""
        return bool(self[field] == value)

    def _whole(self, field: str, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.wrong(field, "text without halves of surrogate pairs (a cut emoji)") from None
        return text


class Cells(Record):
    """A row of a CSV or TSV file: each cell is text as it is written, an empty one null."""

    def flag(self, field: str) -> bool:
        """A truth value, in any case."""
        cell = str(self[field]).lower()
        if cell not in ("true", "false"):
            raise self.wrong(field, "true or false")
        return cell == "true"

    def holds(self, field: str, value: bool | int | str) -> bool:
        """Whether a cell says a value; true and false in any case."""
        cell = str(self[field])
        return cell.lower() == str(value).lower() if isinstance(value, bool) else cell == str(value)


def read_records(path: Path) -> list[Record]:
    """The records of a JSON, CSV or TSV file in UTF-8 or UTF-16, BOM or not.

    JSON may be a list, JSON lines, or one list inside an object; the first line of the others names the columns.
    """
    content = path.read_bytes()
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: is no {error.encoding} text; save it as UTF-8") from None
    delimiter = DELIMITERS.get(path.suffix)
    records = list(_rows(path, text, delimiter) if delimiter else _records(path, text))
    if not records:
        wanted = "a line of column names, then a row a line" if delimiter else "a list of objects or one object a line"
        raise ValueError(f"{path}: holds no record; {wanted} is wanted")
    return records


def _rows(path: Path, text: str, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    place = ""
    try:
        while True:
            place = f"{path}, line {reader.line_num + 1}"
            cells = next(reader)
            if not columns:
                columns = cells
                if twice := [name for index, name in enumerate(columns) if name in columns[:index]]:
                    raise ValueError(f"{place}: two columns are named {_shown(twice[0])}; each needs its own name")
            elif cells and len(cells) != len(columns):
                raise ValueError(f"{place}: has {len(cells)} cells; the file's first line names {len(columns)} columns")
            elif cells:
                yield Cells(dict(zip(columns, (cell or None for cell in cells), strict=True)), place)
    except StopIteration:
        return
    except csv.Error as error:
        kind = "TSV" if delimiter == "\t" else "CSV"
        raise ValueError(f"{place}: is no {kind}: {error}; is a quote not closed, or one inside not doubled?") from None


def _records(path: Path, text: str) -> Iterator[Record]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if lines and _is_object(lines[0][1]) and (len(lines) > 1 or path.suffix == ".jsonl"):
        for number, line in lines:
            yield Record(_parsed(f"{path}, line {number}", line), f"{path}, line {number}")
        return
    whole = _parsed(str(path), text) if lines else []
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list)]
        whole = lists[0] if len(lists) == 1 and all(isinstance(item, dict) for item in lists[0]) else [whole]
    if not isinstance(whole, list):
        raise ValueError(f"{path}: holds {_shown(whole)}; a list of objects or one object a line is wanted")
    for index, fields in enumerate(whole):
        yield Record(fields, f"{path}, record {index}")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: is no JSON: {error}") from None


def _shown(value: Any) -> str:
    """A value as JSON writes it, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
