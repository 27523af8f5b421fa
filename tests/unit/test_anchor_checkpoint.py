"""Checkpoint pairs that cannot be used are refused with the offending value; tensors are found by name."""

from __future__ import annotations

import json
from pathlib import Path

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
    torch.manual_seed(0)
    return write(tmp_path / "base", layers__0__q_proj=torch.randn(6, 4), layers__0__up=torch.randn(4, 6))


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    return write(tmp_path / "aligned", layers__0__q_proj=torch.randn(6, 4), layers__0__up=torch.randn(4, 6))


def test_targets_that_match_nothing_list_what_there_is(base: Path, aligned: Path) -> None:
    with refuses("target 'k_proj' (1 of 2) matches no linear module of aligned="):
        Anchor.build(base, aligned, ["q_proj", "k_proj"])
    with refuses("available: q_proj, up."):
        Anchor.build(base, aligned, ["proj"])


@pytest.mark.parametrize("targets", ["q_proj", [], ()])
def test_targets_must_be_a_list(base: Path, aligned: Path, targets: object) -> None:
    with refuses(f"targets={targets!r} must be a list with a module name in it"):
        Anchor.build(base, aligned, targets)


def test_shapes_differ(base: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", layers__0__q_proj=torch.randn(6, 5))
    with refuses("'layers.0.q_proj' has shape (6, 4) in base="):
        Anchor.build(base, other, ["q_proj"])


def test_module_missing_on_one_side(base: Path, aligned: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", layers__0__q_proj=torch.randn(6, 4))
    with refuses("has no weight for module 'layers.0.up': give two checkpoints of one architecture"):
        Anchor.build(other, aligned, ["up"])


def test_equal_sides(base: Path, tmp_path: Path) -> None:
    with refuses("are the same in all 2 target modules (V = 0)"):
        Anchor.build(base, base, ["q_proj", "up"])
    weights = load_file(base / "model.safetensors")
    half = write(
        tmp_path / "half", layers__0__q_proj=weights["layers.0.q_proj.weight"], layers__0__up=torch.randn(4, 6)
    )
    with refuses("Module 'layers.0.q_proj' is the same in base="):
        Anchor.build(base, half, ["q_proj", "up"])
    assert list(Anchor.build(base, half, ["up"])) == ["layers.0.up"]


def test_equal_numbers_in_another_type_are_equal(tmp_path: Path) -> None:
    weight = torch.randn(6, 4).bfloat16()
    narrow, wide = write(tmp_path / "narrow", q_proj=weight), write(tmp_path / "wide", q_proj=weight.float())
    with refuses("are the same in all 1 target modules"):
        Anchor.build(narrow, wide, ["q_proj"])


def test_pickled_weights_are_never_loaded(aligned: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with refuses("holds pickled weights only ('pytorch_model.bin')"):
        Anchor.build(pickled, aligned, ["q_proj"])
    with refuses("is not a .safetensors file; no other format is read"):
        Anchor.build(pickled / "pytorch_model.bin", aligned, ["q_proj"])


def test_nothing_there(aligned: Path, tmp_path: Path) -> None:
    with refuses("does not exist: give a local checkpoint directory"):
        Anchor.build(tmp_path / "nowhere", aligned, ["q_proj"])
    (tmp_path / "empty").mkdir()
    with refuses("has neither model.safetensors nor model.safetensors.index.json"):
        Anchor.build(tmp_path / "empty", aligned, ["q_proj"])


def test_missing_shard(aligned: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    index = {"weight_map": {"q_proj.weight": "model-00001-of-00002.safetensors"}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with refuses("names 'model-00001-of-00002.safetensors', which is not there (1 missing)"):
        Anchor.build(shards, aligned, ["q_proj"])


def test_quantised_weights(aligned: Path, tmp_path: Path) -> None:
    quantised = write(tmp_path / "int8", layers__0__q_proj=torch.ones(6, 4, dtype=torch.int8))
    with refuses("is stored as I8: give an unquantised checkpoint"):
        Anchor.build(quantised, aligned, ["q_proj"])


def test_broken_weights(base: Path, tmp_path: Path) -> None:
    broken = write(tmp_path / "broken", layers__0__q_proj=torch.full((6, 4), torch.nan))
    with refuses("is not finite"):
        Anchor.build(base, broken, ["q_proj"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
        (None, "download or save it again"),
        (b"<html>404</html>", "download or save it again"),
        (b"", "download or save it again"),
    ],
    ids=["pointer", "half", "page", "empty"],
)
@pytest.mark.parametrize(
    "file",
    [
        "base/model.safetensors",
        "sharded/model-00002-of-00002.safetensors",
        "sharded/model.safetensors.index.json",
        "aligned/config.json",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
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
    (root / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    (aligned / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    (root / "adapter").mkdir()
    factors = {
        f"base_model.model.layers.0.up.lora_{x}.weight": torch.ones(s) for x, s in (("A", (1, 6)), ("B", (4, 1)))
    }
    save_file(factors, root / "adapter" / "adapter_model.safetensors")
    (root / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1}))
    whole = (root / file).read_bytes()
    (root / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    first = root / ("sharded" if file.startswith("sharded") else "base")
    with refuses(f"{root / file}' is") as error:
        project_adapter(root / "adapter", first, aligned, root / "out")
    assert reason in str(error.value)
    assert not (root / "out").exists()


def test_quantised_side_is_told_as_such_although_its_shape_differs(aligned: Path, tmp_path: Path) -> None:
    packed = write(tmp_path / "int4", layers__0__q_proj=torch.ones(12, 1, dtype=torch.uint8))
    with refuses("'layers.0.q_proj.weight' is stored as U8: give an unquantised checkpoint"):
        Anchor.build(packed, aligned, ["q_proj"])


def test_an_index_without_shards(aligned: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "model.safetensors.index.json").write_text("{}")
    with refuses("names no file (no weight_map)"):
        Anchor.build(tmp_path / "shards", aligned, ["q_proj"])


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
