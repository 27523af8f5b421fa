"""The gate through which every record comes in: read whole or refused in one line, with file, place and field.

Nothing is stringified, guessed or dropped here: null is not the word "None", and -1 is no label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


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

    def written(self, field: str) -> str:
        """Text, or a number or truth value as it is written: what may stand in a prompt."""
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
        """The name of a class whose number, from 0, the field holds."""
        value = self[field]
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise self.wrong(field, ", ".join(f"{index} ({name})" for index, name in enumerate(names)))
        return names[number]

    def _whole(self, field: str, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.wrong(field, "text without halves of surrogate pairs (a cut emoji)") from None
        return text


def read_records(path: Path) -> list[Record]:
    """The records of a JSON file: a list, JSON lines, or one list inside an object; UTF-8 or UTF-16, BOM or not."""
    content = path.read_bytes()
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: is no {error.encoding} text; save it as UTF-8") from None
    records = list(_records(path, text))
    if not records:
        raise ValueError(f"{path}: holds no record; a list of objects or one object a line is wanted")
    return records


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
