"""Safe LoRA equals its naive definition with dense matrices, in memory and on disk."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import pytest
import torch
from anchor_pairs import TARGETS, VOCABULARY, difference, save_pair, surrogate, with_lora
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from refusals import refuses
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from asft import project_adapter, safe_lora
from asft.anchor.binding import lora_factors
from asft.anchor.projection import Update, project

Saved = tuple[Path, Path, Path, Path]


def naive(directory: Path, kind: str, updates: dict[str, Update]) -> dict[str, tuple[Tensor, float]]:
    """ĈB and round(cos(ĈBA, BA), 5) per module, from models loaded in full and dense o×o and o×i matrices."""
    results = {}
    for name, update in updates.items():
        c = surrogate(difference(directory, name, conv1d=kind == "gpt2"))
        b, a = update.b.to(c), update.a.to(c)
        cosine = torch.nn.functional.cosine_similarity((c @ b @ a).flatten(), (b @ a).flatten(), dim=0)
        results[name] = (c @ b, round(float(cosine), 5))
    return results


def select(cosines: dict[str, float], mode: str, number: int, threshold: float) -> set[str]:
    cut = sorted(cosines.values())[number - 1] if mode == "number" else threshold
    return {name for name, cosine in cosines.items() if cosine <= cut}


def adapted(directory: Path, kind: str, **settings: object) -> PeftModel:
    torch.manual_seed(9)
    return with_lora(AutoModelForCausalLM.from_pretrained(directory / "aligned"), TARGETS[kind], **settings)


def updates_of(model: PeftModel) -> dict[str, Update]:
    return {f.name: Update(f.a.detach().clone(), f.b.detach().clone()) for f in lora_factors(model)}


@pytest.mark.parametrize(("mode", "number"), [("number", 1), ("number", 3), ("threshold", 1)])
def test_in_memory_equals_the_definition(kind: str, kind_pair: Path, mode: str, number: int) -> None:
    model = adapted(kind_pair, kind)
    before = updates_of(model)
    expected = naive(kind_pair, kind, before)
    cosines = {name: cosine for name, (_, cosine) in expected.items()}
    threshold = median(cosines.values())
    cut = {mode: number if mode == "number" else threshold}
    report = safe_lora(model, kind_pair / "base", kind_pair / "aligned", mode=mode, **cut)
    chosen = select(cosines, mode, number, threshold)
    assert set(report.projected) == chosen
    assert 0 < len(chosen) < len(before)
    after = updates_of(model)
    for entry in report.modules:
        projected, cosine = expected[entry.name]
        assert entry.cosine == pytest.approx(cosine, abs=1.1e-5)  # a last digit may round the other way
        assert torch.equal(after[entry.name].a, before[entry.name].a)
        if entry.projected:
            assert torch.allclose(after[entry.name].b, projected, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(after[entry.name].b, before[entry.name].b)
        held = float((after[entry.name].b @ after[entry.name].a).norm())
        assert entry.norm_after == pytest.approx(held, rel=1e-4)
        assert entry.norm_before == pytest.approx(float((before[entry.name].b @ before[entry.name].a).norm()), rel=1e-4)


def test_adapter_on_disk_gives_the_logits_of_the_one_in_memory(kind: str, kind_pair: Path, tmp_path: Path) -> None:
    model = adapted(kind_pair, kind)
    model.save_pretrained(tmp_path / "adapter")
    sides = (kind_pair / "base", kind_pair / "aligned")
    in_memory = safe_lora(model, *sides, number=2)
    on_disk = project_adapter(tmp_path / "adapter", *sides, tmp_path / "out", number=2)
    assert set(on_disk.projected) == set(in_memory.projected)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sides[1]), tmp_path / "out")
    ids = torch.arange(12).remainder(VOCABULARY).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    written = json.loads((tmp_path / "out" / "safe_lora.json").read_text())
    assert written["mode"] == "number"
    assert {m["name"]: m["projected"] for m in written["modules"]} == {m.name: m.projected for m in on_disk.modules}


@settings(max_examples=30, deadline=None)
@given(o=st.integers(2, 24), i=st.integers(2, 24), r=st.integers(1, 24), seed=st.integers(0, 9999))
def test_cosine_and_projection_for_any_shape(o: int, i: int, r: int, seed: int, tmp_path_factory) -> None:
    """Square, tall and wide weights, any rank, r = o among them; A and B are never told apart by shape."""
    directory = tmp_path_factory.mktemp("shapes")
    torch.manual_seed(seed)
    sides = [torch.randn(o, i, dtype=torch.float64) for _ in range(2)]
    for name, weight in zip(("base", "aligned"), sides, strict=True):
        save_file({"proj.weight": weight}, directory / f"{name}.safetensors")
    update = Update(torch.randn(r, i, dtype=torch.float64), torch.randn(o, r, dtype=torch.float64))
    files = (directory / "base.safetensors", directory / "aligned.safetensors")
    projected, report = project({"proj": update}, *files, number=1)
    c = surrogate(sides[1] - sides[0])
    cosine = torch.nn.functional.cosine_similarity(
        (c @ update.b @ update.a).flatten(), (update.b @ update.a).flatten(), 0
    )
    assert report.modules[0].cosine == round(float(cosine), 5)
    assert torch.allclose(projected["proj"], c @ update.b, rtol=1e-9, atol=1e-12)


class TestSelection:
    """Ties, zero updates and settings that cannot be met."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        """Four modules of which b and c share V, so that equal updates tie."""
        torch.manual_seed(0)
        v = {name: torch.randn(6, 6) for name in "abd"}
        v["c"] = v["b"]
        save_file({f"{name}.weight": torch.zeros(6, 6) for name in v}, tmp_path / "base.safetensors")
        save_file({f"{name}.weight": value.clone() for name, value in v.items()}, tmp_path / "aligned.safetensors")
        return tmp_path / "base.safetensors", tmp_path / "aligned.safetensors"

    @pytest.fixture
    def updates(self) -> dict[str, Update]:
        torch.manual_seed(1)
        updates = {name: Update(torch.randn(2, 6), torch.randn(6, 2)) for name in "abd"}
        return {**updates, "c": updates["b"]}

    def test_ties_add_modules_and_the_threshold_is_inclusive(self, files, updates) -> None:
        _, every = project(updates, *files, threshold=1.0)
        cosines = {module.name: module.cosine for module in every.modules}
        assert cosines["b"] == cosines["c"]
        rank = sorted(cosines.values()).index(cosines["b"]) + 1
        _, report = project(updates, *files, number=rank)
        assert {"b", "c"} <= set(report.projected)
        assert (len(report.projected), report.threshold) == (rank + 1, cosines["b"])
        lowest = min(cosines, key=lambda name: cosines[name])
        _, report = project(updates, *files, mode="threshold", threshold=cosines[lowest])
        assert lowest in report.projected

    def test_zero_update_has_no_direction(self, files, updates) -> None:
        updates["a"] = Update(updates["a"].a, torch.zeros(6, 2))
        projected, report = project(updates, *files, mode="number", number=4)
        (zero,) = [module for module in report.modules if module.name == "a"]
        assert zero.cosine is None
        assert not zero.projected
        assert set(projected) == {"b", "c", "d"}
        none = {name: Update(update.a, torch.zeros(6, 2)) for name, update in updates.items()}
        projected, report = project(none, *files, mode="number", number=1)
        assert (projected, report.threshold) == ({}, None)
        assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["modules"][0]["cosine"] is None

    def test_update_outside_the_range_of_v_is_the_first_to_go(self, tmp_path) -> None:
        weights = {name: torch.zeros(4, 4) for name in ("inside", "outside")}
        save_file({f"{name}.weight": value for name, value in weights.items()}, tmp_path / "base.safetensors")
        for value in weights.values():
            value[0, 0] = 2.0  # V = 2 e₁e₁ᵀ, Ĉ = 2 e₁e₁ᵀ
        save_file({f"{name}.weight": value for name, value in weights.items()}, tmp_path / "aligned.safetensors")
        a, b = torch.ones(1, 4), torch.eye(4)
        updates = {"inside": Update(a, b[:, :1].clone()), "outside": Update(a, b[:, 1:2].clone())}
        files = (tmp_path / "base.safetensors", tmp_path / "aligned.safetensors")
        projected, report = project(updates, *files, mode="number", number=1)
        assert [module.cosine for module in report.modules] == [1.0, 0.0]
        assert report.projected == ("outside",)
        assert float(projected["outside"].norm()) == 0.0
        assert report.modules[1].norm_after == 0.0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"number": 5}, "number=5 must lie between 1 and 4, the number of adapted modules"),
            ({"number": 0}, "number=0 must lie between 1 and 4"),
            ({"threshold": 1.5}, "threshold=1.5 must lie between -1 and 1"),
            ({"mode": "best"}, "mode='best' is unknown; allowed: number, threshold"),
            ({"number": 1, "threshold": 0.2}, "number=1 and threshold=0.2 are two ways to select modules: give one"),
            ({"mode": "threshold", "number": 2}, "number=2 has no effect on mode='threshold'; use mode='number'"),
            ({"mode": "number", "threshold": 0.2}, "threshold=0.2 has no effect on mode='number'"),
            ({"number": 2.5}, "number=2.5 must be a whole number"),
            ({"threshold": "0.5"}, "threshold='0.5' must be a number"),
        ],
    )
    def test_settings_that_cannot_be_met(self, files, updates, settings, message) -> None:
        with pytest.raises(ValueError, match=message):
            project(updates, *files, **settings)

    def test_an_adapter_of_a_class_within_the_checkpoints_class(self, updates, tmp_path) -> None:
        """The text part of a multimodal model, whose names begin otherwise there."""
        sides = [tmp_path / f"{side}.safetensors" for side in ("base", "aligned")]

        def compare(*names: str) -> None:
            for side in sides:
                save_file({f"{name}.layers.0.q.weight": torch.randn(6, 6) for name in names}, side)
            _, report = project({"model.layers.0.q": updates["a"]}, *sides, threshold=1.0)
            v = load_file(sides[1])[key := f"{names[-1]}.layers.0.q.weight"] - load_file(sides[0])[key]
            projected = surrogate(v) @ updates["a"].b @ updates["a"].a
            assert report.modules[0].norm_after == pytest.approx(float(projected.norm()), rel=1e-5)

        compare("model.language_model")
        compare("vision", "model")
        with refuses("'model.layers.0.q' of the adapter may be any of ['model.vision.layers.0.q', 'text.layers.0.q']"):
            compare("model.vision", "text")

    def test_shape_mismatch_names_the_module(self, files, updates) -> None:
        updates["d"] = Update(torch.randn(2, 7), torch.randn(6, 2))
        with pytest.raises(ValueError, match=r"'d': the adapter's update is 6×7, the checkpoints' weight 6×6"):
            project(updates, *files, number=1)

    def test_what_is_given_chooses_the_mode(self, files, updates) -> None:
        given = [project(updates, *files, **asked)[1] for asked in ({}, {"number": 2}, {"threshold": 0.3})]
        assert [report.mode for report in given] == ["number", "number", "threshold"]
        assert len(given[0].projected) == 4, "ten by default, or all of a smaller adapter"
        assert len(given[1].projected) >= 2
        assert given[2].threshold == 0.3

    def test_module_without_alignment_keeps_its_update_and_is_told(self, files, updates, caplog) -> None:
        sides = [load_file(file) for file in files]
        save_file({**sides[1], "d.weight": sides[0]["d.weight"]}, files[1])
        projected, report = project(updates, *files, threshold=1.0)
        assert set(projected) == {"a", "b", "c"}
        (kept,) = [module for module in report.modules if module.name == "d"]
        assert (kept.cosine, kept.projected, kept.norm_after) == (None, False, kept.norm_before)
        assert "1 of 4 modules are the same in base and aligned (V = 0), first d" in caplog.text


class TestAdapterFiles:
    """What is kept, and what is refused by name."""

    @pytest.fixture
    def arguments(self, pair: Path) -> Saved:
        """Of ``project_adapter``, the adapter saved."""
        adapted(pair, "llama").save_pretrained(pair / "adapter")
        return pair / "adapter", pair / "base", pair / "aligned", pair / "out"

    def test_other_tensors_types_and_files_are_kept_and_other_weights_are_not(self, pair: Path) -> None:
        model, folder, out = adapted(pair, "llama", modules_to_save=["lm_head"]), pair / "adapter", pair / "out"
        model.add_adapter("other", model.peft_config["default"])
        model.save_pretrained(folder)  # and folder/other
        file = folder / "adapter_model.safetensors"
        halves = {key: value.half() for key, value in load_file(file).items()}
        save_file(halves, file, metadata={"format": "pt"})
        kept = ["tokenizer.json", "chat_template.jinja", "notes.txt", "additional_chat_templates/tool.jinja"]
        for name in [*kept, "adapter_model.bin", "checkpoint-3/optimizer.pt"]:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        report = project_adapter(folder, pair / "base", pair / "aligned", out, number=1)
        written = load_file(out / "adapter_model.safetensors")
        assert written.keys() == halves.keys()
        changed = {key for key, value in written.items() if not torch.equal(value, halves[key])}
        assert changed == {f"base_model.model.{name}.lora_B.weight" for name in report.projected}
        assert {value.dtype for value in written.values()} == {torch.float16}
        adapter = {"adapter_config.json", "adapter_model.safetensors", "README.md", "safe_lora.json"}
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {*kept, *adapter}
        assert all((out / name).read_text() == name for name in kept)

    def test_nothing_half_written_is_left(self, arguments: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
        out = arguments[-1]
        out.mkdir()  # empty, so it may be used
        before = set(out.parent.iterdir())

        def fail(_: object, path: Path, **__: object) -> None:
            path.write_text("half")
            raise OSError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr("asft.anchor.projection.save_file", fail)
            with pytest.raises(OSError, match="disk full"):
                project_adapter(*arguments, number=1)
        assert set(out.parent.iterdir()) == before
        assert not any(out.iterdir())
        assert project_adapter(*arguments, number=1).projected
        assert set(out.parent.iterdir()) == before

    def test_targets_narrow_it(self, pair: Path) -> None:
        model = adapted(pair, "llama")
        model.save_pretrained(pair / "adapter")
        arguments = (pair / "base", pair / "aligned")
        report = project_adapter(pair / "adapter", *arguments, pair / "out", threshold=1.0, targets=["q_proj"])
        assert len(report.projected) == len(report.modules) == 2
        assert {name.rpartition(".")[2] for name in report.projected} == {"q_proj"}
        before = updates_of(model)
        safe_lora(model, *arguments, threshold=1.0, targets=["q_proj"])
        changed = {name for name, update in updates_of(model).items() if not torch.equal(update.b, before[name].b)}
        assert changed == set(report.projected)
        for wrong in (["q_proj", "proj"], [], "q_proj"):
            with pytest.raises(ValueError, match=r"available: down_proj, q_proj, up_proj, v_proj"):
                safe_lora(model, *arguments, targets=wrong)

    def test_what_is_no_adapter_or_no_place_for_one_is_refused(self, arguments: Saved, pair: Path) -> None:
        folder, base, aligned, out = arguments
        with pytest.raises(ValueError, match=r"out=.*exists and is not an empty directory"):
            project_adapter(folder, base, aligned, base, number=1)
        with pytest.raises(ValueError, match=r"has no adapter_config.json"):
            project_adapter(base, base, aligned, out)
        with pytest.raises(ValueError, match=r"adapter='someone/adapter' is no folder here: give a local one"):
            project_adapter("someone/adapter", base, aligned, out)
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(ValueError, match=r"adapter_model.bin is pickled and never loaded"):
            project_adapter(*arguments)
        model = adapted(pair, "llama")
        model.add_adapter("safe", model.peft_config["default"])
        model.save_pretrained(pair / "several", selected_adapters=["safe"])
        with pytest.raises(ValueError, match=r"has no adapter_config.json, but its folders \['safe'\] have"):
            project_adapter(pair / "several", base, aligned, out)
        assert project_adapter(pair / "several" / "safe", base, aligned, out).modules
        model.merge_adapter()
        with pytest.raises(ValueError, match=r"merged into the base weight.*call unmerge_adapter\(\) first"):
            safe_lora(model, base, aligned)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"use_dora": True}, "uses DoRA"),
            ({"peft_type": "ADALORA"}, "peft_type=ADALORA: only LORA"),
            ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
            ({"target_parameters": ["x"]}, "uses target_parameters"),
            ({"lora_bias": True}, "uses lora_bias"),
            ({"peft_type": None}, "peft_type=None: only LORA"),
            (lambda key, value: {key: torch.zeros(0)}, r"lora_A.weight' is empty \(shape \(0,\)\), as ZeRO-3 leaves"),
            (lambda key, value: {f"_orig_mod.{key}": value}, "'_orig_mod.base_.* does not start with 'base_model"),
            (lambda key, value: {f"module.{key}": value}, "'module.base_.* does not start with 'base_model.model.'"),
            (lambda key, value: {key: value.flatten()}, "adapts no linear module"),
            (
                lambda key, value: {} if "layers.0.self_attn.q_proj.lora_A" in key else {key: value},
                "'model.layers.0.self_attn.q_proj' has only one of lora_A and lora_B",
            ),
        ],
    )
    def test_adapters_in_a_wrong_state_are_told_for_what_they_are(self, arguments: Saved, changes, message) -> None:
        config, file = arguments[0] / "adapter_config.json", arguments[0] / "adapter_model.safetensors"
        if isinstance(changes, dict):
            config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
        else:
            save_file({k: v for item in load_file(file).items() for k, v in changes(*item).items()}, file)
        with pytest.raises(ValueError, match=message):
            project_adapter(*arguments)
        assert not arguments[-1].exists()

    @pytest.mark.parametrize(("kind", "biases"), [("llama", False), ("qwen2", True)])
    def test_trained_biases_of_the_base_are_refused(self, tmp_path: Path, kind: str, biases: bool) -> None:
        save_pair(tmp_path, kind)
        model = adapted(tmp_path, kind, bias="all")
        model.save_pretrained(tmp_path / "adapter")
        pair = (tmp_path / "base", tmp_path / "aligned")
        for call in (
            lambda: safe_lora(model, *pair, number=1),
            lambda: project_adapter(tmp_path / "adapter", *pair, tmp_path / "out", number=1),
        ):
            with pytest.raises(ValueError, match="it trains biases of the base") if biases else nullcontext():
                call()
