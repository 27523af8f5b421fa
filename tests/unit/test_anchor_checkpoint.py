"""Checkpoint pairs that cannot be used are refused with the offending value; tensors are found by name."""

from __future__ import annotations

import errno
import fcntl
import json
from pathlib import Path
from typing import IO

import pytest
import torch
from refusals import refuses
from safetensors.torch import load_file, save_file

from asft import Anchor, project_adapter
from asft.anchor.checkpoint import Checkpoint
from asft.anchor.difference import CheckpointPair
from asft.anchor.names import is_target, stem


def write(directory: Path, **weights: torch.Tensor) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{name.replace('__', '.')}.weight": value for name, value in weights.items()}, directory / "model.safetensors"
    )
    return directory


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base", layers__0__q_proj=torch.randn(6, 4), layers__0__up=torch.randn(4, 6))


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    return write(tmp_path / "aligned", layers__0__q_proj=torch.randn(6, 4), layers__0__up=torch.randn(4, 6))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "k_proj"], "target 'k_proj' (1 of 2) matches no linear module of aligned="),
        (["proj"], "available: q_proj, up."),
        *((wrong, f"targets={wrong!r} must be a list with a module name in it") for wrong in ("q_proj", [], ())),
    ],
)
def test_targets_that_match_nothing(base: Path, aligned: Path, targets: object, message: str) -> None:
    with refuses(message):
        Anchor.build(base, aligned, targets)
    with refuses("must be a list with a module name in it, e.g. ['q_proj', 'v_proj']; of 'all-linear' or a pattern"):
        Anchor.build(base, aligned, "all-linear")


@pytest.mark.parametrize(
    ("weight", "target", "message"),
    [
        (torch.zeros(6, 5), "q_proj", "'layers.0.q_proj' has shape (6, 5) in base="),
        (torch.zeros(6, 4), "up", "has no weight for module 'layers.0.up': give two checkpoints of one architecture"),
        (torch.ones(6, 4, dtype=torch.int8), "q_proj", "is stored as I8: give an unquantised checkpoint"),
        (torch.ones(12, 1, dtype=torch.uint8), "q_proj", "'layers.0.q_proj.weight' is stored as U8: give an unquant"),
        (torch.full((6, 4), torch.nan), "q_proj", "is not finite"),
    ],
)
def test_a_side_that_fits_no_pair(
    aligned: Path, tmp_path: Path, weight: torch.Tensor, target: str, message: str
) -> None:
    with refuses(message):
        Anchor.build(write(tmp_path / "other", layers__0__q_proj=weight), aligned, [target])


def test_equal_sides(base: Path, tmp_path: Path) -> None:
    with refuses("are the same in all 2 target modules (V = 0)"):
        Anchor.build(base, base, ["q_proj", "up"])
    same = load_file(base / "model.safetensors")["layers.0.q_proj.weight"]
    half = write(tmp_path / "half", layers__0__q_proj=same, layers__0__up=torch.randn(4, 6))
    with refuses("Module 'layers.0.q_proj' is the same in base="):
        Anchor.build(base, half, ["q_proj", "up"])
    assert list(Anchor.build(base, half, ["up"])) == ["layers.0.up"]
    narrow, wide = (write(tmp_path / str(w.dtype), q_proj=w) for w in (same.bfloat16(), same.bfloat16().float()))
    with refuses("are the same in all 1 target modules"):
        Anchor.build(narrow, wide, ["q_proj"])


INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (".", "", "does not exist: give a local checkpoint directory"),
        ("notes", "", "holds no *.safetensors. Give"),
        ("pytorch_model.bin", "", "holds no *.safetensors but only pickles (pytorch_model.bin)"),
        (SHARD, "", f"has neither model.safetensors nor {INDEX}"),
        (INDEX, "{}", "names no file (no weight_map)"),
        (INDEX, json.dumps({"weight_map": {"a": SHARD}}), f"names '{SHARD}', which is not there (1 missing)"),
    ],
)
def test_a_folder_without_weights(aligned: Path, tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = tmp_path / "other"
    if file != ".":
        folder.mkdir()
        (folder / file).write_text(content)
    with refuses(message):
        Anchor.build(folder, aligned, ["q_proj"])
    if file.endswith(".bin"):
        with refuses("is not a .safetensors file; no other format is read"):
            Anchor.build(folder / file, aligned, ["q_proj"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
        *((content, "download or save it again") for content in (None, b"<html>404</html>", b"")),
    ],
    ids=["pointer", "half", "page", "empty"],
)
@pytest.mark.parametrize(
    "file",
    [
        *("base/model.safetensors", "sharded/model-00002-of-00002.safetensors", f"sharded/{INDEX}"),
        *("aligned/config.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"),
    ],
)
def test_a_file_that_is_not_whole_is_named(
    base: Path, aligned: Path, file: str, content: bytes | None, reason: str
) -> None:
    root = base.parent
    shards = {f"model-0000{n}-of-00002.safetensors": key for n, key in enumerate(("up", "q_proj"), 1)}
    for name, key in shards.items():
        write(root / "sharded", **{f"layers__0__{key}": torch.randn(4, 6)})
        (root / "sharded" / "model.safetensors").rename(root / "sharded" / name)
    index = {"weight_map": {f"layers.0.{key}.weight": name for name, key in shards.items()}}
    (root / "sharded" / INDEX).write_text(json.dumps(index))
    (aligned / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    (root / "adapter").mkdir()
    key = "base_model.model.layers.0.up.lora_{}.weight"
    factors = {key.format("A"): torch.ones(1, 6), key.format("B"): torch.ones(4, 1)}
    save_file(factors, root / "adapter" / "adapter_model.safetensors")
    (root / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1}))
    whole = (root / file).read_bytes()
    (root / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    first = root / ("sharded" if file.startswith("sharded") else "base")
    with refuses(f"{root / file}' is") as error:
        project_adapter(root / "adapter", first, aligned, root / "out")
    assert reason in str(error.value)
    assert not (root / "out").exists()


def test_remote_code_is_never_run(base: Path, aligned: Path) -> None:
    for side in (base, aligned):
        config = {"model_type": "unheard_of", "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
        (side / "config.json").write_text(json.dumps(config))
    assert list(Anchor.build(base, aligned, ["q_proj"])) == ["layers.0.q_proj"]


@pytest.mark.parametrize("wrong", [{"num_attention_heads": 0}, {"hidden_size": "wide"}, {"hidden_act": "none such"}])
def test_a_configuration_that_fits_no_model_is_named(base: Path, aligned: Path, wrong: dict[str, object]) -> None:
    (aligned / "config.json").write_text(json.dumps({"model_type": "llama", **wrong}))
    with refuses(f"{aligned / 'config.json'}': transformers cannot build this model ("):
        Anchor.build(base, aligned, ["q_proj"])


@pytest.mark.parametrize("change", ["adapter", "weights"])
def test_weights_that_are_elsewhere_are_not_taken_for_those_here(base: Path, aligned: Path, change: str) -> None:
    """As :func:`asft.door.read_model`: transformers would load others."""
    if change == "adapter":
        (aligned / "adapter_config.json").write_text("{}")
    else:
        (aligned / "config.json").write_text(json.dumps({"transformers_weights": "other.safetensors"}))
    with refuses("names weights elsewhere"):
        Anchor.build(base, aligned, ["q_proj"])
    assert Anchor.build(base, aligned / "model.safetensors", ["q_proj"])


def test_difference_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asft.anchor.checkpoint.BLOCK_BYTES", 100)
    sides = [torch.randn(37, 11) for _ in range(2)]
    pair = CheckpointPair(write(tmp_path / "a", m=sides[0]), write(tmp_path / "b", m=sides[1]), ["m"])
    assert len(list(pair.base.row_blocks("m.weight"))) == 37
    assert torch.equal(pair.difference("m"), sides[1] - sides[0])


def test_names() -> None:
    assert stem("model.layers.0.q") == stem("transformer.layers.0.q") == stem("layers.0.q") == "layers.0.q"
    assert is_target("model.layers.0.q_proj", ["q_proj"])
    assert is_target("model.layers.0.q_proj", ["layers.0.q_proj"])
    assert not is_target("model.layers.0.q_proj", ["proj"])


def test_key_with_and_without_the_prefix(base: Path) -> None:
    checkpoint = Checkpoint(base, "base")
    for name in ("model.layers.0.up.weight", "layers.0.up.weight"):
        assert torch.equal(checkpoint.tensor(name), load_file(base / "model.safetensors")["layers.0.up.weight"])
    with refuses("has no weight for module 'layers.0.down'"):
        checkpoint.shape("layers.0.down.weight")


def test_a_cache_on_nfs_whose_shared_locks_are_readers(
    base: Path, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def as_nfs(file: IO[str], how: int) -> None:
        if not (file.readable() if how & fcntl.LOCK_SH else file.writable()):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    Anchor.build(base, aligned, ["q_proj"], cache_dir=tmp_path / "anchors")
