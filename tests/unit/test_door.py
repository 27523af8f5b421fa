"""The one door for checkpoints: no code of theirs runs, and their files bound what they cost."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import REPOSITORY
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from refusals import refuses
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from asft.anchor.saved_adapter import read_adapter
from asft.data.templates import ChatTemplate
from asft.door import INDEX_NAME, read_adapted, read_config, read_model, read_tokenizer, render

LOADERS = re.compile(
    r"apply_chat_template|"
    r"\.from_pretrained\(|\.from_config\(|trust_remote_code|torch\.load\(|pickle\.load|import_module\("
)
ALLOWED = {  # what loads by other means, and why it may
    "door.py": "the door",
    "backends/vllm.py": "vLLM loads by itself, and is told not to trust",
    "cells/build.py": "plug-ins by an allow-list",
    "cli.py": "our commands",
    "__init__.py": "our own names",
    "judges/endpoint.py": "the HTTP library of the openai package",
}


def test_nothing_but_the_door_calls_a_loader() -> None:
    package = REPOSITORY / "asft"
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if LOADERS.search(path.read_text())}
    assert found <= ALLOWED.keys()


@pytest.fixture
def checkpoint(random_pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_pair / "aligned", tmp_path / "checkpoint"))


def edit(checkpoint: Path, name: str, **values: Any) -> None:
    settings = json.loads((checkpoint / name).read_text())
    (checkpoint / name).write_text(json.dumps({**settings, **values}))


def load(checkpoint: Path) -> Any:
    return read_model(AutoModelForCausalLM, checkpoint)


@pytest.mark.parametrize(
    ("file", "read", "classes"),
    [
        ("config.json", read_config, ["AutoConfig"]),
        ("config.json", load, ["AutoConfig", "AutoModelForCausalLM"]),
        ("tokenizer_config.json", read_tokenizer, ["AutoTokenizer"]),
    ],
)
def test_code_in_a_checkpoint_does_not_run_and_nobody_is_asked(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, file: str, read: Callable[[Path], Any], classes: list[str]
) -> None:
    ran = checkpoint / "ran"
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    (checkpoint / "theirs.py").write_text(f"open({str(ran)!r}, 'w')")
    (checkpoint / "custom_generate").mkdir()
    shutil.copy(checkpoint / "theirs.py", checkpoint / "custom_generate" / "generate.py")
    code = {name: ["theirs.X", None] if name == "AutoTokenizer" else "theirs.X" for name in classes}
    edit(checkpoint, file, auto_map=code, model_type="theirs", tokenizer_class="X")
    with pytest.raises(ValueError, match=r"theirs|custom code"):
        read(checkpoint)
    assert not ran.exists()


def test_generation_code_in_a_checkpoint_does_not_run(checkpoint: Path) -> None:
    (checkpoint / "custom_generate").mkdir()
    (checkpoint / "custom_generate" / "generate.py").write_text(f"open({str(checkpoint / 'ran')!r}, 'w')")
    load(checkpoint)
    assert not (checkpoint / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, and the files hold"),
        ({"num_hidden_layers": 1e9}, "num_hidden_layers=1000000000.0"),
        ({"num_labels": 10**8}, "num_labels=100000000"),
        ({"text_config": {"n_layers": 10**7}}, "n_layers=10000000"),
        ({"vocab_size": 10**8}, "describes a model of"),
        ({"intermediate_size": 10**8, "hidden_size": 10**4}, "describes a model of"),
        ({"vocab_size": 2**62, "hidden_size": 2**40}, "config.json: "),
        ({"backbone_config": [{"num_hidden_layers": 10**9}]}, "num_hidden_layers=1000000000"),
        ({"depths": [2, 10**9]}, "depths=1000000000"),
        ({"transformers_weights": "other.safetensors"}, "names weights elsewhere"),
        ({"num_attention_heads": 0}, "config.json: "),
        ({"dtype": "__class__"}, "config.json: "),
        ({"dtype": 5}, "config.json: "),
        ({"hidden_act": "no such"}, "config.json: "),
        ({"hidden_size": "big"}, "config.json: "),
        ({"rope_parameters": 5}, "config.json: "),
        ({"attn_implementation": "someone/kernel"}, "names code of a repository"),
        ({"_attn_implementation": "someone/kernel@v1:x"}, "names code of a repository"),
        ({"text_config": {"_experts_implementation_internal": "a/b"}}, "names code of a repository"),
    ],
)
def test_what_the_files_cannot_hold_is_refused_before_memory_is_asked_for(
    checkpoint: Path, settings: dict[str, Any], told: str
) -> None:
    edit(checkpoint, "config.json", **settings)
    with refuses(told):
        load(checkpoint)


@pytest.mark.parametrize(
    "tensors", [{}, {"a": torch.zeros(0, 10**9)}, {f"{i}": torch.zeros(10**9, 0) for i in range(99)}]
)
def test_a_checkpoint_of_no_numbers_bounds_none(checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, checkpoint / "model.safetensors")
    edit(checkpoint, "config.json", num_hidden_layers=10**9)
    with refuses("hold no numbers"):
        load(checkpoint)


@pytest.mark.parametrize("name", ["evil.bin", "../outside.safetensors", "a/b.safetensors", "..", "", 5, None])
def test_an_index_names_only_safetensors_beside_it(checkpoint: Path, name: object) -> None:
    weights = (checkpoint / "model.safetensors").rename(checkpoint / "part.safetensors")
    for other in ("evil.bin", "../outside.safetensors"):
        shutil.copy(weights, checkpoint / other)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": weights.name, "model.norm.weight": name}}
    (checkpoint / INDEX_NAME).write_text(json.dumps(index))
    with refuses(f"{INDEX_NAME}: names {name!r}, and only safetensors files beside it"):
        load(checkpoint)


def test_a_checkpoint_names_no_other_as_its_base(checkpoint: Path) -> None:
    (checkpoint / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(checkpoint.parent)}))
    with refuses("names weights elsewhere"):
        load(checkpoint)


@pytest.mark.parametrize(
    "settings", [{"watermarking_config": 5}, {"compile_config": "x"}, {"cache_config": 5, "watermarking_config": [1]}]
)
def test_a_generation_config_that_is_none_is_told_in_one_line(checkpoint: Path, settings: dict[str, object]) -> None:
    (checkpoint / "generation_config.json").write_text(json.dumps(settings))
    with refuses("generation_config.json: "):
        load(checkpoint)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "{"])
def test_a_configuration_that_is_none_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with refuses("config.json' "):
        read_config(checkpoint)


@pytest.fixture(scope="module")
def adapter(random_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    get_peft_model(load(random_pair / "aligned"), config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"r": 10**9}, "rank r=1000000000"),
        ({"r": "8"}, "r='8'"),
        ({"r": 0}, "r=0"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank q_proj=1000000000"),
        ({"rank_pattern": ["x"]}, "rank_pattern=['x']"),
        ({"alpha_pattern": {"(x+)+y": 1}}, "only plain LoRA"),
        ({"target_modules": 5}, "target_modules"),
        ({"modules_to_save": ["(x+)+y"]}, "modules_to_save.0='(x+)+y'"),
        ({"modules_to_save": ["embed_tokens"]}, "holds nothing of it"),
        ({"init_lora_weights": "pissa_niter_1000000000"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"layer_replication": [[0, 10**9]]}, "layer_replication=[[0, 1000000000]]"),
        ({"lora_alpha": float("inf")}, "lora_alpha=inf"),
        ({"use_dora": True}, "use_dora=True"),
        ({"made_up": [1]}, "made_up=[1]"),
        ({"peft_type": "IA3"}, "only plain LoRA"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "only plain LoRA"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(
    random_pair: Path, adapter: Path, tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    edit(folder, "adapter_config.json", **settings)
    with refuses(told):
        read_adapted(load(random_pair / "aligned"), folder)


def test_no_expression_is_matched_where_an_adapter_is_read_without_a_model(adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    edit(folder, "adapter_config.json", alpha_pattern={"((.+)+)+no": 1})
    with refuses("alpha_pattern"):
        read_adapter(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "((.+)+)+no"},
        {"target_modules": None, "exclude_modules": "((.+)+)+no", "init_lora_weights": "gaussian"},
        {"layers_to_transform": [0], "layers_pattern": ["((.+)+)+no"], "rank_pattern": {"v_proj": 1}},
    ],
)
def test_an_adapter_adapts_the_modules_of_its_file_and_leaves_the_base(
    random_pair: Path, adapter: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    edit(folder, "adapter_config.json", **settings)
    base, adapted = load(random_pair / "aligned").state_dict(), read_adapted(load(random_pair / "aligned"), folder)
    found = {
        key.removeprefix("base_model.model.").replace(".base_layer", ""): w for key, w in adapted.state_dict().items()
    }
    assert all(torch.equal(weight, found[key]) for key, weight in base.items())
    stored = load_file(folder / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(adapted)
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(weight, loaded[key]) for key, weight in stored.items())


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "takes more than 0.2 s"),
        (
            "{% set n = namespace(v=0) %}{% for i in range(99999) %}{% for j in range(99999) %}"
            "{% set n.v = ('9' * 4000) | int %}{% endfor %}{% endfor %}",
            "takes more than 0.2 s",
        ),
        ("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% set x = 10 ** 10 ** 10 %}{{ x }}", "computes powers"),
        ("{{ messages | map('int') | sum }}{{ 9**9**9 }}", "computes powers"),
        ("{{ 'a' * 10000000000000000 }}", "MemoryError"),
        ("{{ 'a' * 100000000000000000000000000 }}", "OverflowError"),
    ],
)
def test_a_chat_template_that_has_no_end_is_ended(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, template: str, told: str
) -> None:
    monkeypatch.setattr("asft.door.TEMPLATE_SECONDS", 0.2)
    tokenizer = read_tokenizer(checkpoint)
    tokenizer.chat_template = template
    with refuses(told):
        ChatTemplate(tokenizer)


def test_a_chat_template_may_do_what_it_needs(checkpoint: Path) -> None:
    tokenizer, before = read_tokenizer(checkpoint), signal.getsignal(signal.SIGALRM)
    turns = [{"role": "user", "content": "2 ** 3 = 8"}]
    assert render(tokenizer, turns, ask=True, template="** {{ messages[0].content }}") == "** 2 ** 3 = 8"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_look_at_the_sizes_draws_no_random_number(checkpoint: Path) -> None:
    torch.manual_seed(0)
    load(checkpoint)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_pretrained(checkpoint)
    assert drawn == torch.rand(1)
