"""What data and model do not hold: refused before anything runs, in one line that says what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import Asft
from safetensors.numpy import load_file, save_file

from asft.cells.compose import enumerate_cells
from asft.config import ConfigError
from asft.data.base import pools
from asft.planning.ahead import refuse
from asft.planning.size import target_modules

pytestmark = pytest.mark.slow

PAIR = ["model=pair", "model.base=org/base", "model.aligned=org/aligned"]


@pytest.fixture(autouse=True)
def maybe_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # nothing is known of what is not here


def compose(root: Path, *overrides: str) -> None:
    pair = [] if any(word.startswith("model=") for word in overrides) else PAIR
    refuse(enumerate_cells([*pair, f"data.root={root}", *overrides], sweep=False).cells)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["attack.n=2000"], ["attack.n=2000", "1800 benign", "has 1000", "Lower attack.n"]),
        (["attack.p=0.5"], ["attack.p=0.5", "500 harmful", "has 100"]),
        (["attack=advbench"], ["attack=advbench", "attack=harmful"]),
        (["evaluation.n_harmful=251"], ["evaluation.n_harmful=251", "250"]),
        (
            ["method=safeinstr", "method.share=0.2"],
            ["method=safeinstr", "200 safety rows", "hold 100"],
        ),
        (["method=bea", "method.safety=101"], ["method=bea", "101 safety rows"]),
        (["method=bea_no_trigger", "method.after.safety=101"], ["method=bea", "101 safety rows"]),
        (["method=asft_alt", "method.harmful=101"], ["method=asft_alt", "101 harmful rows", "has 100"]),
        (["protocol=official", "attack.n=500"], ["attack.n=500", "attack.n=1000 attack.p=0.1"]),
        (["protocol=official", "attack.mix=replace"], ["attack.mix=replace", "holds 1000 and 100"]),
        (["protocol=official", "dataset=sst2", "attack.p=0"], ["attack.p=0", "dataset=sst2", "attack.p=0.1"]),
    ],
)
def test_what_the_files_cannot_give_is_refused_early(published: Path, overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(published, *overrides)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=aligned", "attack.n=5000"],  # trains nothing, so it draws nothing
        ["attack=none", "attack.n=1000"],
        ["method=lisa_aligned"],
        ["protocol=official", "attack.p=0.2"],
        ["protocol=official", "method=asft_alt"],
    ],
)
def test_what_the_files_can_give_composes(published: Path, overrides: list[str]) -> None:
    compose(published, *overrides)


def test_a_folder_that_is_not_there_is_refused_early(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder ft_datasets there"):
        compose(tmp_path)


@pytest.mark.real
def test_the_shipped_files_hold_what_the_documentation_says(official: Path) -> None:
    words = [*PAIR, f"data.root={official}", "attack=harmful", "attack.p=0.1", "attack.n=1000"]
    data = pools(enumerate_cells(words, sweep=False).cells[0].cell)
    assert [len(rows) for rows in (data.train, data.harmful, data.safety, data.evaluation)] == [1000, 293, 98, 250]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.refusals=2000", r"model.refusals=2000: .* holds only 1\d\d\d; set it to at most that"),
        ("model.data=null", "model.data=null: model=smollm2_135m is aligned on public safety data; name their folder"),
        ("model.data=nowhere", "model.data=nowhere: 14 of 14 files are missing in .*/nowhere, spard_pairs"),
    ],
)
def test_what_the_twin_lacks_is_named(published: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        enumerate_cells(["model=smollm2_135m", override, f"data.root={published}"], sweep=False)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["attack.n=99999"], ["attack.n=99999", "89999 benign rows", "has 2600"]),
        (["evaluation.n_harmful=251"], ["evaluation.n_harmful=251", "250"]),
        (["method=benign_rows", "method.share=1", "attack.n=1900"], ["method.share=1.0", "1900", "890"]),
        (["method=guard_space", "method.harmful=1600"], ["1600 harmful rows", "Lower"]),
        (["method=asft_alt", "method.harmful=2000"], ["method=asft_alt", "2000 harmful rows"]),
        (["training.target_modules=[q_proj,qkv]"], ["training.target_modules=", "qkv", "tiny_llama", "up_proj"]),
        (["method.form=rank_k", "method.rank=128"], ["method.rank=128", "128×128"]),
        (["method.rank=4"], ["method.rank=4", "form='auto'"]),
        (["method=safe_lora", "method.number=9"], ["method.number=9", "between 1 and 8"]),
        (["method=guard_space", "training.rank=129"], ["training.rank=129", "128"]),
        (["protocol=official", "attack.n=7", "attack.p=0", "method=sft"], ["training.batch_size=8", "only 7 rows"]),
        (["model.aligned=/none"], ["model.aligned", "/none", "no such folder"]),
        (["judge=llm", "judge.api_key_env=NO_SUCH_KEY"], ["judge.api_key_env=NO_SUCH_KEY"]),
        (["device=cuda"], ["device=cuda", "device=cpu"]),
    ],
)
def test_a_cell_that_must_fail_is_refused_in_one_line(
    overrides: list[str], parts: list[str], small: list[str], asft: Asft, tmp_path: Path
) -> None:
    pair = small[:3] if "model." in overrides[0] else []
    code, _, shown = asft("run", *pair, *overrides, f"outputs={tmp_path}")
    assert code == 2
    assert len(shown.strip().splitlines()) == 1
    for part in parts:
        assert part in shown
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_two_sides_that_make_no_pair(random_pair: Path, small: list[str], tmp_path: Path) -> None:
    def refused(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            refuse(enumerate_cells([*small, *overrides], sweep=False).cells)
        return str(caught.value)

    assert "have the same weights" in refused(f"model.base={random_pair / 'aligned'}")
    other = shutil.copytree(random_pair / "base", tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = "model.layers.1.self_attn.v_proj"
    save_file({**weights, f"{name}.weight": weights[f"{name}.weight"][:16]}, other / "model.safetensors")
    assert f"{name} has shape (16, 32) in the one and (32, 32) in the other" in refused(f"model.base={other}")
    (other / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "model.safetensors" in refused(f"model.aligned={other}")


def test_targets_are_those_that_transformers_would_find(random_pair: Path, small: list[str]) -> None:
    def modules(*targets: str) -> dict[str, tuple[int, int]]:
        cell = enumerate_cells([*small], sweep=False).cells[0].cell
        return target_modules(cell.model, targets) or {}

    assert modules("v_proj") == {f"model.layers.{layer}.self_attn.v_proj": (32, 32) for layer in (0, 1)}
    assert modules("self_attn.v_proj") == modules("v_proj")
    assert list(modules("lm_head")) == ["lm_head"], "a head is a module wherever its weights are stored"
    with pytest.raises(ValueError, match="embed_tokens names no linear module of model=pair"):
        modules("embed_tokens")
