"""What can go is what nobody needs: leftovers, and entries that an experiment does not name."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save_file

from asft import Anchor
from asft.store.cleaning import clean, set_damaged_aside, verify
from asft.store.entries import Store, content_key

ONE, TWO = (content_key({"a": number}) for number in (1, 2))


def filled(root: Path) -> Store:
    store = Store(root)
    for number in (1, 2):
        store.ensure("pairs", {"a": number}, lambda folder: (folder / "x").write_text("x") and {})
    return store


def names(store: Store, named: set[tuple[str, str]] | None = None) -> set[str]:
    return {str(found.path.relative_to(store.root)) for found in clean(store, named, delete=False)}


def test_leftovers_of_dead_runs_go_and_what_is_held_stays(tmp_path: Path) -> None:
    store = filled(tmp_path)
    cells = tmp_path / "pairs"
    for name in (f".{ONE}.tmp-1", f".{'0' * 20}.tmp-1", f".{'0' * 20}.resume"):
        (cells / name).mkdir()
    (cells / f".{'0' * 20}.running").write_text("{}")
    found = names(store)
    assert {f"pairs/.{ONE}.tmp-1", f"pairs/.{'0' * 20}.tmp-1", f"pairs/.{'0' * 20}.running"} <= found
    assert f"pairs/.{'0' * 20}.resume" not in found, "an unfinished stage goes on from it"
    with FileLock(cells / f".{'0' * 20}.lock"):
        assert not [name for name in names(store) if "0" * 20 in name]


def test_without_an_experiment_no_entry_goes(tmp_path: Path) -> None:
    store = filled(tmp_path)
    clean(store, None, delete=True)
    assert store.read("pairs", ONE, whole=True)
    assert store.read("pairs", TWO, whole=True)
    assert names(store) == set()


def test_entries_that_the_experiment_does_not_name_go(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert f"pairs/{TWO}" in names(store, {("pairs", ONE)})
    clean(store, {("pairs", ONE)}, delete=True)
    assert store.read("pairs", ONE, whole=True)
    assert store.find("pairs", TWO) is None


def test_verify_reads_every_byte(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert (verify(store).whole, verify(store).damaged) == (2, [])
    path = store.path("pairs", ONE) / "x"
    before = path.stat()
    path.write_text("y")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    found = verify(store)
    assert found.whole == 1
    ((kind, key, reason),) = found.damaged
    assert (kind, key) == ("pairs", ONE)
    assert f"{ONE}/x" in reason


def test_anchors_are_verified_set_aside_and_then_cleared(tmp_path: Path) -> None:
    for side in ("base", "aligned"):
        (tmp_path / side).mkdir()
        save_file({"q_proj.weight": torch.randn(4, 3)}, tmp_path / side / "model.safetensors")
    store = Store(tmp_path / "outputs")

    def build() -> Path:
        Anchor.build(tmp_path / "base", tmp_path / "aligned", ["q_proj"], cache_dir=store.root / "anchors")
        (folder,) = (path for path in (store.root / "anchors").iterdir() if path.is_dir() and path.name != "damaged")
        return folder

    folder = build()
    assert (verify(store).whole, verify(store).damaged) == (1, [])
    flip(folder / "0000.safetensors")
    ((kind, key, reason),) = verify(store).damaged
    assert (kind, key) == ("anchors", folder.name)
    assert "0000.safetensors: its SHA-256" in reason
    assert set_damaged_aside(store, kind, key) == store.root / "damaged" / "anchors" / f"{key}-1"
    flip(build() / "0000.safetensors")
    build()
    (left := store.root / "anchors" / f".{key}.partial").mkdir()
    gone = {f"damaged/anchors/{key}-1", f"anchors/damaged/{key}-1", f"anchors/{left.name}"}
    with FileLock(store.root / "anchors" / f"{key}.lock"):
        assert names(store, set()) == gone - {f"anchors/{left.name}"}, "somebody is building it"
    assert names(store, set()) == gone, "no experiment names an anchor"


def test_a_link_is_neither_followed_nor_an_obstacle(tmp_path: Path) -> None:
    mine, store = tmp_path / "mine", filled(tmp_path / "store")
    (mine / "deep-1").mkdir(parents=True)
    (mine / "deep-1" / "thesis").write_text("years of work")
    for name in ("damaged", "stages", ".import", f"pairs/.{ONE}.tmp-1", f"pairs/{'0' * 20}"):
        (store.root / name).symlink_to(mine)
    (store.root / "anchors").mkdir()
    (store.root / "anchors" / "damaged").symlink_to(mine / "nowhere")
    assert names(store, {("pairs", ONE)}) == {".import", f"pairs/.{ONE}.tmp-1", f"pairs/{TWO}", f"pairs/{'0' * 20}"}
    assert [key for _, key, _ in verify(store).damaged] == ["0" * 20]
    assert set_damaged_aside(store, "pairs", "0" * 20) == store.root / "damaged" / "pairs" / f"{'0' * 20}-1"
    clean(store, {("pairs", ONE)}, delete=True)
    assert (mine / "deep-1" / "thesis").read_text() == "years of work"
    assert names(store, {("pairs", ONE)}) == set()
    store.ensure("pairs", {"a": 2}, lambda folder: {})
    assert store.find("pairs", ONE, whole=True)


def test_while_anyone_works_on_a_cell_its_stages_stay(tmp_path: Path) -> None:
    store = filled(tmp_path)
    with store.claim("0" * 20, wait=False):
        assert names(store, set()) == set()
    assert names(store, set()) == {f"pairs/{ONE}", f"pairs/{TWO}"}


def test_what_is_made_anew_meanwhile_is_not_moved(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (store.path("pairs", ONE) / "x").unlink()
    with store.lock("pairs", ONE):
        assert set_damaged_aside(store, "pairs", ONE) is None, "at work"
    store.ensure("pairs", {"a": 1}, lambda folder: (folder / "x").write_text("x") and {})
    assert set_damaged_aside(store, "pairs", ONE) is None, "whole again"
    assert store.find("pairs", ONE, whole=True)


def flip(path: Path) -> None:
    data, before = bytearray(path.read_bytes()), path.stat()
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # the clock of file times is coarse
