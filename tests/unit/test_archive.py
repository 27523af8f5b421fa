"""A table travels as one file; an archive that is not ours leaves nothing behind."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import socket
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from refusals import refuses
from synthetic_store import write_cell, write_measure

from asft.cells.compose import enumerate_cells
from asft.store.archive import HostileArchive, Imported, export, import_archive
from asft.store.entries import Store, content_key
from asft.store.integrity import MANIFEST, SEAL, seal
from asft.store.schemas import CONFIG_FILE

KEY = content_key({"a": 1})


def produce(folder: Path) -> dict[str, int]:
    (folder / "base").mkdir()
    (folder / "base" / "x.jsonl").write_text("{}\n")
    return {"value": 1}


@pytest.fixture
def here(tmp_path: Path) -> Store:
    store = Store(tmp_path / "here")
    store.ensure("pairs", {"a": 1}, produce)
    store.ensure("pairs", {"b": 1}, produce)
    return store


@pytest.fixture
def there(tmp_path: Path) -> Store:
    (tmp_path / "there").mkdir()
    return Store(tmp_path / "there")


def left(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if path.suffix != ".lock")


def test_what_is_exported_arrives_whole_and_once(here: Store, there: Store, tmp_path: Path) -> None:
    file = tmp_path / "table.tar.gz"
    assert export(here, [("pairs", KEY), ("pairs", "0" * 20)], file) == 1
    assert import_archive(there, file) == Imported(new=1, known=0)
    entry = there.read("pairs", KEY, whole=True)
    assert entry is not None
    assert entry.result == {"value": 1}
    assert (entry.path / "base" / "x.jsonl").read_text() == "{}\n"
    assert import_archive(there, file) == Imported(new=0, known=1)
    assert left(there) == ["pairs"]


@pytest.mark.parametrize("words", [["method=sft"], ["experiment=table1", "measure.update=random", "attack.n=10"]])
def test_who_computed_it_and_where_stays_here(
    words: list[str], there: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = ["tracker=wandb", "tracker.entity=me", f"outputs={tmp_path / 'here'}", "workers=7"]
    (job,) = enumerate_cells([*words, *options], sweep=True).cells
    entry = write_cell(job, 1, 1) if job.cell.measure is None else write_measure(job, 0.5, {})
    export(job.store, [(job.plan.kind, job.key)], tmp_path / "t.tar.gz")
    assert import_archive(there, tmp_path / "t.tar.gz") == Imported(new=1, known=0)
    arrived = there.read(job.plan.kind, job.key, whole=True)
    assert arrived is not None
    own = {"host", "files", SEAL}
    assert {k: v for k, v in arrived.manifest.items() if k not in own} == {
        k: v for k, v in entry.manifest.items() if k not in own
    }
    config = json.loads((arrived.path / CONFIG_FILE).read_text())
    assert not {"outputs", "workers", "tracker", "checkpoint_every"} & config.keys()
    assert config["method"] == job.plain()["method"]
    told = "".join(path.read_text() for path in arrived.path.iterdir())
    assert str(tmp_path) not in told
    assert socket.gethostname() not in told
    assert import_archive(job.store, tmp_path / "t.tar.gz") == Imported(new=0, known=1)


def test_a_damaged_entry_here_gives_way_to_an_imported_one(here: Store, there: Store, tmp_path: Path) -> None:
    export(here, [("pairs", KEY)], tmp_path / "t.tar.gz")
    import_archive(there, tmp_path / "t.tar.gz")
    (there.path("pairs", KEY) / "base" / "x.jsonl").write_text("[]\n")
    assert import_archive(there, tmp_path / "t.tar.gz") == Imported(new=1, known=0)
    assert there.read("pairs", KEY, whole=True) is not None


def test_pairs_that_share_a_file_are_exported_with_a_copy_each(here: Store, there: Store, tmp_path: Path) -> None:
    keys = [content_key({"a": 1}), content_key({"b": 1})]
    first, second = (here.path("pairs", key) / "base" / "x.jsonl" for key in keys)
    second.unlink()
    second.hardlink_to(first)
    export(here, [("pairs", key) for key in keys], tmp_path / "t.tar.gz")
    assert import_archive(there, tmp_path / "t.tar.gz") == Imported(new=2, known=0)


def test_a_kind_may_be_on_another_disk(here: Store, there: Store, tmp_path: Path, other_disks: None) -> None:
    (tmp_path / "disk").mkdir()
    (there.root / "pairs").symlink_to(tmp_path / "disk")
    export(here, [("pairs", KEY)], tmp_path / "t.tar.gz")
    assert import_archive(there, tmp_path / "t.tar.gz") == Imported(new=1, known=0)
    (there.path("pairs", KEY) / "base" / "x.jsonl").write_text("[]\n")
    assert there.ensure("pairs", {"a": 1}, produce).result == {"value": 1}
    assert (there.root / "damaged" / "pairs" / f"{KEY}-1" / "base" / "x.jsonl").read_text() == "[]\n"
    assert [path.name for path in (tmp_path / "disk").iterdir() if path.suffix != ".lock"] == [KEY]


@pytest.fixture
def other_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is renamed from one folder into another, as from one disk to another."""

    def within(real: Callable[..., None], source: Path, target: Path) -> None:
        if source.parent.resolve() != target.parent.resolve():
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, partial(within, getattr(os, name)))


def member(
    name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def pack(file: Path, *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(file, "w:gz", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return file


HOSTILE = {
    "parent folder": member(f"pairs/{KEY}/../../../evil"),
    "parent in front": member(f"../pairs/{KEY}/evil"),
    "absolute": member(f"/pairs/{KEY}/evil"),
    "outside the kinds": member(f"reports/{KEY}/evil"),
    "no key": member("pairs/evil/evil"),
    "hidden file": member(f"pairs/{KEY}/.evil"),
    "backslash": member(f"pairs/{KEY}/..\\evil"),
    "too deep": member(f"pairs/{KEY}/a/b/c/d/e"),
    "symbolic link": member(f"pairs/{KEY}/evil", b"", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": member(f"pairs/{KEY}/evil", b"", tarfile.LNKTYPE, "/etc/passwd"),
    "device": member(f"pairs/{KEY}/evil", b"", tarfile.CHRTYPE),
    "pipe": member(f"pairs/{KEY}/evil", b"", tarfile.FIFOTYPE),
    "folder": member(f"pairs/{KEY}/evil", b"", tarfile.DIRTYPE),
}


def kept(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root.parent)) for path in store.root.parent.rglob("*evil*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_refused(name: str, there: Store, tmp_path: Path) -> None:
    file = pack(tmp_path / "x.tar.gz", HOSTILE[name])
    with pytest.raises(HostileArchive):
        import_archive(there, file)
    assert kept(there) == []
    assert left(there) == []


def test_limits_hold_while_unpacking(there: Store, tmp_path: Path) -> None:
    names = [member(f"pairs/{KEY}/f{i}", b"\0" * 5000) for i in range(5)]
    file = pack(tmp_path / "x.tar.gz", *names)
    with pytest.raises(HostileArchive, match="more than 3 files"):
        import_archive(there, file, max_files=3)
    with pytest.raises(HostileArchive, match="more than 1e-05 GB"):
        import_archive(there, file, max_gb=1e-5)
    assert left(there) == []


def test_a_bomb_in_the_headers_is_refused(there: Store, tmp_path: Path) -> None:
    info, data = member(f"pairs/{KEY}/x")
    info.pax_headers = {"comment": "a" * 5_000_000}
    with pytest.raises(HostileArchive, match="headers are larger"):
        import_archive(there, pack(tmp_path / "x.tar.gz", (info, data), form=tarfile.PAX_FORMAT))


def test_headers_that_are_allowed_do_not_add_up_to_a_bomb(there: Store, tmp_path: Path) -> None:
    many = [member(f"pairs/{KEY}/f{i}") for i in range(50)]
    info, data = member(f"pairs/{KEY}/x")
    info.pax_headers = {"comment": "a" * 5_000_000}
    with pytest.raises(HostileArchive, match="headers are larger"):
        import_archive(there, pack(tmp_path / "x.tar.gz", *many, (info, data), form=tarfile.PAX_FORMAT))


def test_a_file_of_any_size_can_be_told(there: Store, tmp_path: Path) -> None:
    """The header of a shard of 60 GB, which USTAR cannot write; what follows it is missing."""
    info, _ = member(f"pairs/{KEY}/model.safetensors")
    info.size = 60 * 10**9
    file = tmp_path / "x.tar.gz"
    file.write_bytes(gzip.compress(info.tobuf(tarfile.PAX_FORMAT)))
    with pytest.raises(HostileArchive, match="more than 20 GB unpacked; raise --max-gb"):
        import_archive(there, file)
    with pytest.raises(HostileArchive, match="unexpected end of data"):
        import_archive(there, file, max_gb=100)
    assert left(there) == []


@pytest.mark.nightly
def test_a_file_beyond_the_limit_of_ustar_travels(tmp_path: Path) -> None:
    def large(folder: Path) -> dict[str, int]:
        with (folder / "model.safetensors").open("wb") as shard:
            shard.truncate(2**33 + 7)
        return {}

    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    entry = here.ensure("pairs", {"large": 1}, large)
    assert export(here, [("pairs", entry.path.name)], tmp_path / "large.tar.gz") == 1
    assert import_archive(there, tmp_path / "large.tar.gz") == Imported(new=1, known=0)
    found = there.read("pairs", entry.path.name)
    assert found is not None
    assert (found.path / "model.safetensors").stat().st_size == 2**33 + 7


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\3\4", gzip.compress(b"no tar" * 999), gzip.compress(b"x" * 9)[:-4]],
    ids=["empty", "zip", "no tar", "half a gzip"],
)
def test_what_is_no_archive_is_told_so(data: bytes, there: Store, tmp_path: Path) -> None:
    file = tmp_path / "x.tar.gz"
    file.write_bytes(data)
    with pytest.raises(HostileArchive, match="not an archive"):
        import_archive(there, file)
    assert left(there) == []


def header(kind: bytes, data: bytes) -> bytes:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def pax(keyword: str, value: str) -> bytes:
    record = f" {keyword}={value}\n"
    return header(tarfile.XHDTYPE, f"{len(record) + 2}{record}".encode())


@pytest.mark.parametrize(
    "headers",
    [
        header(tarfile.GNUTYPE_LONGNAME, b"a\0") * 2000,
        header(tarfile.GNUTYPE_LONGLINK, b"a\0") * 2000,
        pax("comment", "a") * 2000,
        pax("GNU.sparse.map", "0,y,9"),
        pax("GNU.sparse.size", "many"),
        pax("path", "a" * 40) + b"\xff" * 512,
    ],
    ids=["long names", "long links", "pax", "sparse map", "sparse size", "no header"],
)
def test_headers_that_tarfile_cannot_read_are_told_in_one_line(headers: bytes, there: Store, tmp_path: Path) -> None:
    info, data = member(f"pairs/{KEY}/x")
    file = tmp_path / "x.tar.gz"
    file.write_bytes(gzip.compress(headers + info.tobuf(tarfile.USTAR_FORMAT) + data.ljust(512, b"\0") + bytes(1024)))
    with refuses("x.tar.gz: not an archive of `asft store export` ("):
        import_archive(there, file)
    assert left(there) == []


def forged(change: Callable[[dict[str, object]], dict[str, object]]) -> Callable[[Store, Path], Path]:
    def make(store: Store, file: Path) -> Path:
        entry = store.read("pairs", KEY, whole=True)
        assert entry is not None
        manifest = json.dumps(seal(change(dict(entry.manifest)))).encode()
        data = (entry.path / "base" / "x.jsonl").read_bytes()
        return pack(file, member(f"pairs/{KEY}/base/x.jsonl", data), member(f"pairs/{KEY}/{MANIFEST}", manifest))

    return make


FORGERIES = {
    "other settings": (forged(lambda m: {**m, "settings": {"a": 2}}), "that of another entry"),
    "other key": (forged(lambda m: {**m, "key": "0" * 20}), "that of another entry"),
    "other schema": (forged(lambda m: {**m, "schema": 0}), "schema 0"),
    "no checksums": (forged(lambda m: {k: v for k, v in m.items() if k != "files"}), "files: Field required"),
    "unlisted file": (forged(lambda m: {**m, "files": {}}), "other files than its manifest lists"),
    "listed elsewhere": (
        forged(lambda m: {**m, "files": {"../../../evil": {"size": 1, "sha256": "0" * 64}}}),
        "is no name of a file below its entry",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_manifest_is_refused(name: str, here: Store, there: Store, tmp_path: Path) -> None:
    make, reason = FORGERIES[name]
    with pytest.raises(ValueError, match=reason):
        import_archive(there, make(here, tmp_path / "x.tar.gz"))
    assert left(there) == []


def test_a_member_that_comes_twice_is_refused(there: Store, tmp_path: Path) -> None:
    with pytest.raises(HostileArchive, match="comes twice"):
        import_archive(there, pack(tmp_path / "x.tar.gz", member(f"pairs/{KEY}/x"), member(f"pairs/{KEY}/x")))
