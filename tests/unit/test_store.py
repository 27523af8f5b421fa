"""The store: what is finished is never computed twice, and what is not finished never looks finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import read_jsonl

from asft.store.entries import MANIFEST, Store, content_key, write_jsonl
from asft.store.integrity import seal


def write_one(folder: Path) -> dict[str, int]:
    (folder / "data.txt").write_text("x")
    return {"value": 1}


def test_content_key_ignores_order_and_sees_values() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 1.5})


def test_an_entry_is_computed_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.ensure("pairs", {"a": 1}, write_one)

    def never(_: Path) -> dict[str, int]:
        raise AssertionError("computed twice")

    second = store.ensure("pairs", {"a": 1}, never)
    assert second.manifest == first.manifest
    assert second.result == {"value": 1}
    assert (second.path / "data.txt").read_text() == "x"


def test_the_manifest_says_how_it_came_about(tmp_path: Path) -> None:
    manifest = Store(tmp_path).ensure("pairs", {"a": 1}, write_one).manifest
    assert manifest["settings"] == {"a": 1}
    assert manifest["seconds"] >= 0
    assert manifest["peak_memory_mb"] > 1
    assert {"python", "torch", "transformers", "peft"} <= set(manifest["versions"])
    assert "commit" in manifest
    assert manifest["device"], "where nothing ran on a GPU, the processor"


def test_what_a_dead_writer_left_is_cleared_away(tmp_path: Path) -> None:
    stale = tmp_path / "pairs" / f".{content_key({'a': 1})}.tmp-99999"
    stale.mkdir(parents=True)
    Store(tmp_path).ensure("pairs", {"a": 1}, write_one)
    assert not stale.exists()


def test_another_schema_is_refused_with_advice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.ensure("pairs", {"a": 1}, write_one)
    (entry.path / MANIFEST).write_text(json.dumps(seal({**entry.manifest, "schema": 0})))
    with pytest.raises(ValueError, match="store schema 0, this version reads 1"):
        store.find("pairs", entry.manifest["key"])


def test_jsonl_round_trip(tmp_path: Path) -> None:
    rows = [{"a": "ü\n"}, {"a": "\u2028"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert list(read_jsonl(tmp_path / "x.jsonl")) == rows
