"""A table travels as one file; an archive that is not ours leaves nothing behind."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from asft.store.archive import HostileArchive, Imported, export, import_archive
from asft.store.entries import Store, content_key
from asft.store.integrity import MANIFEST, seal

KEY = content_key({"a": 1})


def produce(folder: Path) -> dict[str, int]:
    (folder / "base").mkdir()
    (folder / "base" / "x.jsonl").write_text("{}\n")
    return {"value": 1}


@pytest.fixture
def here(tmp_path: Path) -> Store:
    store = Store(tmp_path / "here")
    store.ensure("cells", {"a": 1}, produce)
    store.ensure("pairs", {"b": 1}, produce)
    return store


@pytest.fixture
def there(tmp_path: Path) -> Store:
    (tmp_path / "there").mkdir()
    return Store(tmp_path / "there")


def test_what_is_exported_arrives_whole_and_once(here: Store, there: Store, tmp_path: Path) -> None:
    file = tmp_path / "table.tar.gz"
    assert export(here, [("cells", KEY), ("cells", "0" * 20)], file) == 1
    assert import_archive(there, file) == Imported(new=1, known=0)
    entry = there.read("cells", KEY, whole=True)
    assert entry is not None
    assert entry.result == {"value": 1}
    assert (entry.path / "base" / "x.jsonl").read_text() == "{}\n"
    assert import_archive(there, file) == Imported(new=0, known=1)
    assert sorted(path.name for path in there.root.iterdir()) == ["cells"]


def test_a_damaged_entry_here_gives_way_to_an_imported_one(here: Store, there: Store, tmp_path: Path) -> None:
    export(here, [("cells", KEY)], tmp_path / "t.tar.gz")
    import_archive(there, tmp_path / "t.tar.gz")
    (there.path("cells", KEY) / "base" / "x.jsonl").write_text("[]\n")
    assert import_archive(there, tmp_path / "t.tar.gz") == Imported(new=1, known=0)
    assert there.read("cells", KEY, whole=True) is not None


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
    "parent folder": member(f"cells/{KEY}/../../../evil"),
    "parent in front": member(f"../cells/{KEY}/evil"),
    "absolute": member(f"/cells/{KEY}/evil"),
    "outside the kinds": member(f"reports/{KEY}/evil"),
    "no key": member("cells/evil/evil"),
    "hidden file": member(f"cells/{KEY}/.evil"),
    "backslash": member(f"cells/{KEY}/..\\evil"),
    "too deep": member(f"cells/{KEY}/a/b/c/d/e"),
    "symbolic link": member(f"cells/{KEY}/evil", b"", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": member(f"cells/{KEY}/evil", b"", tarfile.LNKTYPE, "/etc/passwd"),
    "device": member(f"cells/{KEY}/evil", b"", tarfile.CHRTYPE),
    "pipe": member(f"cells/{KEY}/evil", b"", tarfile.FIFOTYPE),
    "folder": member(f"cells/{KEY}/evil", b"", tarfile.DIRTYPE),
}


def kept(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.root.parent)) for path in store.root.parent.rglob("*evil*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_refused(name: str, there: Store, tmp_path: Path) -> None:
    file = pack(tmp_path / "x.tar.gz", HOSTILE[name])
    with pytest.raises(HostileArchive):
        import_archive(there, file)
    assert kept(there) == []
    assert list(there.root.iterdir()) == []


def test_limits_hold_while_unpacking(there: Store, tmp_path: Path) -> None:
    names = [member(f"cells/{KEY}/f{i}", b"\0" * 5000) for i in range(5)]
    file = pack(tmp_path / "x.tar.gz", *names)
    with pytest.raises(HostileArchive, match="more than 3 files"):
        import_archive(there, file, max_files=3)
    with pytest.raises(HostileArchive, match="more than 1e-05 GB"):
        import_archive(there, file, max_gb=1e-5)
    assert list(there.root.iterdir()) == []


def test_a_bomb_in_the_headers_is_refused(there: Store, tmp_path: Path) -> None:
    info, data = member(f"cells/{KEY}/x")
    info.pax_headers = {"comment": "a" * 5_000_000}
    with pytest.raises(HostileArchive, match="headers are larger"):
        import_archive(there, pack(tmp_path / "x.tar.gz", (info, data), form=tarfile.PAX_FORMAT))


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
    assert list(there.root.iterdir()) == []


def forged(change: Callable[[dict[str, object]], dict[str, object]]) -> Callable[[Store, Path], Path]:
    def make(store: Store, file: Path) -> Path:
        entry = store.read("cells", KEY, whole=True)
        assert entry is not None
        manifest = json.dumps(seal(change(dict(entry.manifest)))).encode()
        data = (entry.path / "base" / "x.jsonl").read_bytes()
        return pack(file, member(f"cells/{KEY}/base/x.jsonl", data), member(f"cells/{KEY}/{MANIFEST}", manifest))

    return make


FORGERIES = {
    "other settings": (forged(lambda m: {**m, "settings": {"a": 2}}), "that of another entry"),
    "other key": (forged(lambda m: {**m, "key": "0" * 20}), "that of another entry"),
    "other schema": (forged(lambda m: {**m, "schema": 0}), "schema 0"),
    "no checksums": (forged(lambda m: {k: v for k, v in m.items() if k != "files"}), "no checksums"),
    "unlisted file": (forged(lambda m: {**m, "files": {}}), "other files than its manifest lists"),
    "listed elsewhere": (
        forged(lambda m: {**m, "files": {"../../../evil": {"size": 1, "sha256": ""}}}),
        "other files than its manifest lists",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_manifest_is_refused(name: str, here: Store, there: Store, tmp_path: Path) -> None:
    make, reason = FORGERIES[name]
    with pytest.raises(ValueError, match=reason):
        import_archive(there, make(here, tmp_path / "x.tar.gz"))
    assert list(there.root.iterdir()) == []


def test_a_member_that_comes_twice_is_refused(there: Store, tmp_path: Path) -> None:
    with pytest.raises(HostileArchive, match="comes twice"):
        import_archive(there, pack(tmp_path / "x.tar.gz", member(f"cells/{KEY}/x"), member(f"cells/{KEY}/x")))
