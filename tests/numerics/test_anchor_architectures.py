"""Anchors streamed from disk equal those of models loaded in full, whatever the architecture and layout."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from anchor_pairs import SIZES, TARGETS, VOCABULARY, difference, save_pair, surrogate, tiny_model, with_lora
from refusals import refuses
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

import asft.anchor.anchor as anchor_module
from asft import Anchor, project_adapter, safe_lora
from asft.anchor.building import build_form
from asft.anchor.checkpoint import Checkpoint
from asft.anchor.forms import AnchoredModule
from asft.anchor.penalty import FullPenalty, Penalty
from asft.anchor.projection import Update, project
from asft.anchor.spec import AnchorSpec


def assert_matches_full_models(anchor: Anchor, directory: Path, kind: str) -> None:
    for name, module in anchor.items():
        v = difference(directory, name, conv1d=kind == "gpt2")
        assert (module.out_features, module.in_features) == tuple(v.shape)
        assert module.norm == pytest.approx(float(v.norm()), rel=1e-5)
        eye = torch.eye(len(v), dtype=v.dtype)
        assert torch.allclose(module.form.along(eye), surrogate(v), rtol=1e-4, atol=1e-6)
        d = eye - surrogate(v)
        assert torch.allclose(module.form.apply(eye), d @ d, rtol=1e-4, atol=1e-5)


def test_streamed_anchor_equals_full_models_and_binds_to_both(kind: str, kind_pair: Path) -> None:
    anchor = Anchor.build(kind_pair / "base", kind_pair / "aligned", TARGETS[kind])
    assert len(anchor) == 2 * len(TARGETS[kind])  # two layers
    assert_matches_full_models(anchor, kind_pair, kind)
    for module in anchor.values():
        assert module.form.kind == ("gram" if module.out_features <= module.in_features else "factor")
    for family in (AutoModelForCausalLM, AutoModel):  # the model and its bare backbone
        penalty = Penalty(anchor, with_lora(family.from_pretrained(kind_pair / "aligned"), TARGETS[kind]))
        assert len(penalty.names) == len(anchor)
        assert penalty.norms().penalty > 0


def test_sharded_and_half_precision_checkpoints(kind: str, tmp_path: Path) -> None:
    """Narrow numbers are subtracted in float32."""
    save_pair(sharded := tmp_path / "sharded", kind, shard="8KB")
    assert (sharded / "base" / "model.safetensors.index.json").exists()
    assert_matches_full_models(Anchor.build(sharded / "base", sharded / "aligned", TARGETS[kind]), sharded, kind)
    save_pair(halves := tmp_path / "halves", kind, torch.bfloat16)
    base, aligned = (loaded(halves / side) for side in ("base", "aligned"))
    for name, module in Anchor.build(halves / "base", halves / "aligned", TARGETS[kind]).items():
        difference = aligned[f"{name}.weight"] - base[f"{name}.weight"]
        assert module.norm == pytest.approx(difference.norm().item(), rel=1e-6)


def test_backbone_prefix_may_be_missing_on_one_side(kind: str, kind_pair: Path, tmp_path: Path) -> None:
    prefix = "transformer." if kind == "gpt2" else "model."
    bare = {k.removeprefix(prefix): v for k, v in load_file(kind_pair / "base" / "model.safetensors").items()}
    save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((kind_pair / "base" / "config.json").read_text())
    anchor = Anchor.build(tmp_path, kind_pair / "aligned", TARGETS[kind])
    assert len(anchor) == 2 * len(TARGETS[kind])
    assert_matches_full_models(anchor, kind_pair, kind)


def test_vocabulary_may_differ_and_without_config_names_come_from_the_keys(tmp_path: Path) -> None:
    model = save_pair(tmp_path, "llama")
    model.resize_token_embeddings(60)
    model.save_pretrained(tmp_path / "extended")
    whole = Anchor.build(tmp_path / "base", tmp_path / "extended", TARGETS["llama"])
    assert_matches_full_models(whole, tmp_path, "llama")
    for side in ("base", "aligned"):
        (tmp_path / side / "config.json").unlink()
    for file in ("", "model.safetensors"):
        by_key = Anchor.build(tmp_path / "base" / file, tmp_path / "aligned" / file, TARGETS["llama"])
        assert sorted(by_key) == sorted(whole)


def test_square_conv1d_weights_of_single_files(tmp_path: Path) -> None:
    """GPT-2's attn.c_proj is stored i×o, which its shape cannot tell: the config.json beside the file does."""
    model = save_pair(tmp_path, "gpt2")
    files = tuple(tmp_path / side / "model.safetensors" for side in ("base", "aligned"))
    name = "transformer.h.0.attn.c_proj"
    expected = Anchor.build(tmp_path / "base", tmp_path / "aligned", [name])[name].form
    assert torch.equal(Anchor.build(*files, [name])[name].form.gram, expected.gram)
    for side in ("base", "aligned"):
        (tmp_path / side / "config.json").unlink()
    guessed = Anchor.build(*files, ["h.0.attn.c_proj"])
    guessed.save(tmp_path / "anchor")
    adapted = with_lora(tiny_model("gpt2"), [name])
    for refused in (guessed, Anchor.load(tmp_path / "anchor")):
        with refuses(f"Module '{name}' is a Conv1D, which stores its weight i×o, and was read as o×i"):
            Penalty(refused, adapted)
        with refuses("is a Conv1D"):
            FullPenalty(refused, model)
    adapted.save_pretrained(tmp_path / "adapter")
    with refuses("is a Conv1D"):
        safe_lora(adapted, *files)
    with refuses("is a Conv1D"):
        project_adapter(tmp_path / "adapter", *files, tmp_path / "out")


def test_targets_match_whole_components_only(pair: Path) -> None:
    anchor = Anchor.build(pair / "base", pair / "aligned", ["layers.1.self_attn.q_proj", "v_proj"])
    assert list(anchor) == [f"model.layers.{n}.self_attn.{x}_proj" for n, x in ((0, "v"), (1, "q"), (1, "v"))]


def loaded(folder: Path, family: Any = AutoModelForCausalLM) -> dict[str, torch.Tensor]:
    model = family.from_pretrained(folder, dtype=torch.float32)
    return dict(model.named_parameters(remove_duplicate=False))


def assert_reads_what_transformers_loads(folder: Path, family: Any = AutoModelForCausalLM) -> None:
    checkpoint = Checkpoint(folder, "aligned")
    for name, weight in loaded(folder, family).items():
        assert checkpoint.shape(name) == tuple(weight.shape), name
        assert torch.equal(checkpoint.tensor(name), weight), name


MULTIMODAL = {
    "text_config": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "vision_config": {**SIZES, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4},
    "mm_tokens_per_image": 4,
}
CLIP = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, "projection_dim": 16}
LLAVA = {"text_config": {"model_type": "llama", **SIZES}, "vision_config": {**SIZES, **CLIP}, "image_token_index": 47}
EXPERTS = {**SIZES, "num_local_experts": 2, "num_experts": 2, "moe_intermediate_size": 8, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gemma3", MULTIMODAL),  # keys language_model.model.…, modules model.language_model.…
        ("llava", LLAVA),  # no causal language model's class; keys language_model.lm_head, language_model.model.…
        ("mixtral", EXPERTS),  # one tensor per expert, one parameter for all of them
        ("qwen3_moe", EXPERTS),
        ("hrm_text", SIZES),  # fused projections, taken apart
        ("qwen2", {**SIZES, "tie_word_embeddings": True}),  # no output head is stored
        ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 1, "n_head": 2}),
    ],
)
def test_every_weight_is_what_transformers_loads(model_type: str, settings: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = AutoModelForImageTextToText if model_type == "llava" else AutoModelForCausalLM
    model = family.from_config(AutoConfig.for_model(model_type, **settings), dtype=torch.float32)
    model.save_pretrained(tmp_path)
    assert_reads_what_transformers_loads(tmp_path, family)


def newer_single_file(folder: Path) -> None:
    """Shards and their index, and beside them one file of other weights."""
    weights = {key: value + 1 for key, value in every_tensor(folder).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def stale_index(folder: Path) -> None:
    """An index that knows the files, but not what lies where now, nor every key."""
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"] = {f"key {n}": file for n, file in enumerate(files)}
    file.write_text(json.dumps(index))


def two_versions(folder: Path) -> None:
    """A later shard holds a tensor of an earlier one again, changed."""
    last = sorted(folder.glob("model-*.safetensors"))[-1]
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({**load_file(last), name: every_tensor(folder)[name] + 1}, last, metadata={"format": "pt"})


def every_tensor(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for file in sorted(folder.glob("model-*.safetensors")) for key, value in load_file(file).items()}


@pytest.mark.parametrize("change", [newer_single_file, stale_index, two_versions], ids=lambda change: change.__name__)
def test_files_are_chosen_as_transformers_chooses_them(change: Callable[[Path], None], tmp_path: Path) -> None:
    save_pair(tmp_path, "llama", shard="8KB")
    before = every_tensor(tmp_path / "aligned")
    change(tmp_path / "aligned")
    assert_reads_what_transformers_loads(tmp_path / "aligned")
    after = loaded(tmp_path / "aligned")
    assert (change is stale_index) == all(torch.equal(after[key], value) for key, value in before.items())


def test_a_tied_head_has_the_embeddings_direction(tmp_path: Path) -> None:
    for side in ("base", "aligned"):
        tied = AutoConfig.for_model("qwen2", **SIZES, tie_word_embeddings=True)
        AutoModelForCausalLM.from_config(tied).save_pretrained(tmp_path / side)
    anchor = Anchor.build(tmp_path / "base", tmp_path / "aligned", ["lm_head"])
    assert anchor["lm_head"].norm == pytest.approx(float(difference(tmp_path, "lm_head").norm()), rel=1e-6)


def test_one_expert_is_addressed_by_its_key(tmp_path: Path) -> None:
    """As in adapters from before transformers 5, which have one LoRA per expert."""
    for side in ("base", "aligned"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **EXPERTS))
        model.save_pretrained(tmp_path / side)
    key = "model.layers.1.block_sparse_moe.experts.1.w2"
    sides = [load_file(tmp_path / side / "model.safetensors")[f"{key}.weight"] for side in ("base", "aligned")]
    a, b = torch.randn(2, sides[0].shape[1]), torch.randn(sides[0].shape[0], 2)
    projected, _ = project({key: Update(a, b)}, tmp_path / "base", tmp_path / "aligned", number=1)
    assert torch.allclose(projected[key], surrogate(sides[1] - sides[0]) @ b, rtol=1e-4, atol=1e-6)


def flip_last_byte(path: Path) -> None:
    data, before = bytearray(path.read_bytes()), path.stat()
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # the clock of file times is coarse


class TestCache:
    """Stored by content, complete or absent."""

    @pytest.mark.parametrize(
        "spec",
        [AnchorSpec(), AnchorSpec("parallel"), AnchorSpec("identity"), AnchorSpec("projector", rank=3)],
        ids=lambda spec: spec.variant,
    )
    def test_round_trip(self, pair: Path, spec: AnchorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = (pair / "base", pair / "aligned", TARGETS["llama"])
        settings = {"variant": spec.variant, "form": spec.form, "rank": spec.rank, "cache_dir": pair / "cache"}
        fresh = Anchor.build(*arguments, **{**settings, "cache_dir": None})
        built = Anchor.build(*arguments, **settings)
        monkeypatch.setattr("asft.anchor.anchor.build_form", lambda *_: pytest.fail("built again"))
        for cached in (built, Anchor.build(*arguments, **settings)):
            assert list(cached) == list(fresh)
            for name, module in fresh.items():
                other = cached[name]
                assert (other.norm, other.error_bound) == (module.norm, module.error_bound)
                assert other.form.side == module.form.side
                for key, tensor in module.form.tensors().items():
                    assert torch.equal(other.form.tensors()[key], tensor)
        assert len([entry for entry in (pair / "cache").iterdir() if entry.is_dir()]) == 1

    def test_key_follows_contents_and_settings(self, pair: Path) -> None:
        arguments = (pair / "base", pair / "aligned", ["q_proj"])
        Anchor.build(*arguments, cache_dir=pair / "cache")
        file = pair / "aligned" / "model.safetensors"
        weights = load_file(file)
        weights["model.layers.1.self_attn.q_proj.weight"][3, 4] += 1e-3  # same size, one number changed
        save_file(weights, file, metadata={"format": "pt"})
        changed = Anchor.build(*arguments, cache_dir=pair / "cache")
        assert changed["model.layers.1.self_attn.q_proj"].norm == pytest.approx(
            float(difference(pair, "model.layers.1.self_attn.q_proj").norm()), rel=1e-6
        )
        Anchor.build(*arguments, form="factor", cache_dir=pair / "cache")
        Anchor.build(*arguments, variant="random", seed=1, cache_dir=pair / "cache")
        Anchor.build(*arguments, variant="random", seed=2, cache_dir=pair / "cache")
        assert len([entry for entry in (pair / "cache").iterdir() if entry.is_dir()]) == 5

    def test_an_interrupted_build_goes_on_from_what_it_has(self, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments, cache = (pair / "base", pair / "aligned", ["q_proj"]), pair / "cache"
        fresh = Anchor.build(*arguments)
        made = Mock(side_effect=[build_form(torch.ones(16, 16), AnchorSpec(), ""), KeyboardInterrupt])
        with monkeypatch.context() as patch:
            patch.setattr("asft.anchor.anchor.build_form", made)
            with pytest.raises(KeyboardInterrupt):
                Anchor.build(*arguments, cache_dir=cache)
        assert [entry.suffix for entry in cache.iterdir() if entry.is_dir()] == [".partial"]
        again = Anchor.build(*arguments, cache_dir=cache)
        first, second = (torch.equal(again[name].form.gram, fresh[name].form.gram) for name in fresh)
        assert (first, second) == (False, True), "the first is what was made before"
        assert [entry.suffix for entry in cache.iterdir() if entry.is_dir()] == [""]

    def test_processes_share_a_build_out(self, pair: Path) -> None:
        """Each is at a module of its own at the same time; one that is killed there is replaced."""
        arguments, cache = (pair / "base", pair / "aligned", ["q_proj", "v_proj"]), pair / "cache"

        def become(number: int) -> None:
            def made(*given: Any) -> AnchoredModule:
                with (pair / f"made{number}").open("a") as file:
                    file.write(f"{given[-1]}\n")
                while not all((pair / f"made{other}").exists() for other in range(3)):
                    time.sleep(0.01)
                if number == 2:
                    os._exit(0)
                return real(*given)

            real, anchor_module._anchored = anchor_module._anchored, made
            assert len(Anchor.build(*arguments, cache_dir=cache)) == 4

        children = []
        for number in range(3):
            if (child := os.fork()) == 0:
                try:
                    become(number)
                finally:
                    os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        made = [set((pair / f"made{number}").read_text().split()) for number in range(3)]
        assert len(made[2]) == 1
        assert not made[0] & made[1]
        assert len(made[0] | made[1]) == 4
        fresh = Anchor.build(*arguments)
        shared = Anchor.build(*arguments, cache_dir=cache)
        assert list(shared) == list(fresh)
        assert all(torch.equal(shared[name].form.gram, fresh[name].form.gram) for name in fresh)

    @pytest.mark.parametrize(
        ("file", "harm", "reason"),
        [
            ("0001.safetensors", flip_last_byte, "SHA-256"),
            ("0001.safetensors", lambda path: os.truncate(path, 200), "has 200 bytes"),
            ("0000.safetensors", Path.unlink, "is missing"),
            (
                "anchor.json",
                lambda path: path.write_text(path.read_text().replace('"orthogonal"', '"along"')),
                "SHA-256",
            ),
            ("anchor.json", Path.unlink, "holds no anchor"),
        ],
        ids=["flipped byte", "truncated", "lost", "changed description", "no description"],
    )
    def test_damage_is_named_set_aside_and_built_anew(
        self, pair: Path, file: str, harm: Callable[[Path], object], reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        arguments, cache = (pair / "base", pair / "aligned", ["q_proj"]), pair / "cache"
        fresh = Anchor.build(*arguments, form="gram", cache_dir=cache)
        (folder,) = (entry for entry in cache.iterdir() if entry.is_dir())
        tensors = {name: module.form.tensors()["gram"].clone() for name, module in fresh.items()}
        harm(folder / file)
        with pytest.raises(ValueError, match=reason):
            Anchor.load(folder)
        again = Anchor.build(*arguments, form="gram", cache_dir=cache)
        assert all(torch.equal(module.form.tensors()["gram"], tensors[name]) for name, module in again.items())
        assert reason in caplog.text
        assert f"Set aside in {cache / 'damaged' / folder.name}-1" in caplog.text
        assert list(Anchor.load(folder)) == list(again)

    def test_save_and_load(self, pair: Path) -> None:
        anchor = Anchor.build(pair / "base", pair / "aligned", ["q_proj"])
        anchor.save(pair / "anchor")
        meta = json.loads((pair / "anchor" / "anchor.json").read_text())
        assert [entry["name"] for entry in meta["modules"]] == list(anchor)
        assert list(Anchor.load(pair / "anchor")) == list(anchor)
        with pytest.raises(ValueError, match="exists: give a new one"):
            anchor.save(pair / "anchor")
        with pytest.raises(ValueError, match="holds no anchor"):
            Anchor.load(pair / "base")

    def test_a_save_takes_nothing_from_a_killed_one(self, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        killed, anchor = (Anchor.build(pair / "base", pair / "aligned", [target]) for target in ("v_proj", "q_proj"))
        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if there was no time for it
            patch.setattr("asft.anchor.anchor.write_meta", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                killed.save(pair / "anchor")
        anchor.save(pair / "anchor")
        loaded = Anchor.load(pair / "anchor")
        assert list(loaded) == list(anchor)
        assert all(torch.equal(loaded[name].form.gram, anchor[name].form.gram) for name in anchor)
