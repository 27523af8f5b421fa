"""``asft doctor``: what is missing, what to do about it, and no secret shown."""

from __future__ import annotations

import errno
import json
import shutil
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from judge_models import classifier

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.commands.doctor import doctor
from asft.planning.ahead import Finding
from asft.planning.doctor import examine

TOKEN = "hf_SECRETSECRETSECRET"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@cache
def cells(*overrides: str) -> list[Job]:
    return list(enumerate_cells(overrides, sweep=True).cells)


def found(overrides: list[str]) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(cells(*overrides))}


def test_the_random_pair_needs_nothing_else(pair_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(pair_overrides) == 0
    shown = capsys.readouterr().out
    for word in ("python", "torch", "CUDA", "disk", "GiB free", "hub token", "nothing that this experiment needs"):
        assert word in shown


def test_a_gpu_that_torch_does_not_see_is_missing(pair_overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "99.1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    finding = found(pair_overrides)["CUDA"]
    assert finding.state == "missing"
    for word in (f"torch {torch.__version__} is built for CUDA 99.1", "CUDA_VISIBLE_DEVICES=7", "device=cpu"):
        assert word in finding.text
    for words in ([*pair_overrides, "device=cpu"], []):
        assert found(words)["CUDA"].state == "note", "nobody asks for a GPU"


def test_a_checkpoint_out_of_reach_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(["judge=llama_guard", "judge.revision=12e4567"]) == 1
    shown = capsys.readouterr().out
    assert "meta-llama/Llama-Guard-3-8B: revision 12e4567 is not on this machine, and HF_HUB_OFFLINE is set" in shown
    assert "missing: judge=llama_guard" in shown


def test_an_ensembles_members_are_looked_at_one_by_one(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    findings = found(["judge=ensemble", f"judge.members.beaver_dam.model={path}"])
    assert findings["judge=beaver_dam"].state == "ok"
    assert findings["judge=llama_guard"].state == "missing"
    assert findings["judge=refusal"].state == "ok"
    assert "backend=hf" not in findings


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("GatedRepoError", "accept its licence at https://huggingface.co/PKU-Alignment/beaver-dam-7b"),
        ("RepositoryNotFoundError", "no such repository"),
        ("ConnectionError", "out of reach (ConnectionError)"),
    ],
)
def test_what_the_hub_says(monkeypatch: pytest.MonkeyPatch, error: str, words: str) -> None:
    import httpx2
    from huggingface_hub import HfApi, errors

    def refuse(*_: object, **__: object) -> None:
        if error == "ConnectionError":
            raise ConnectionError("no network")
        response = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co"))
        raise getattr(errors, error)("refused", response=response)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", refuse)
    finding = found(["judge=beaver_dam"])["judge=beaver_dam"]
    assert finding.state == "missing"
    assert words in finding.text


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    doctor([])
    shown = capsys.readouterr().out
    assert "present" in shown
    assert "SECRET" not in shown


def test_an_endpoint_without_its_key_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    finding = found(["judge=llm", "judge.api_key_env=NO_SUCH_KEY"])["judge=llm"]
    assert finding.state == "missing"
    assert "NO_SUCH_KEY" in finding.text
    monkeypatch.setenv("NO_SUCH_KEY", "x")
    assert found(["judge=llm", "judge.api_key_env=NO_SUCH_KEY"])["judge=llm"].state == "ok"


def test_a_package_that_the_model_needs_is_missing(monkeypatch: pytest.MonkeyPatch, official: Path) -> None:
    monkeypatch.setattr("asft.planning.doctor.installed", lambda package: None if package == "gguf" else "1.0")
    assert found([])["gguf"].state == "note"
    finding = found(["model=smollm2_135m", f"data.root={official}", "attack.n=100"])["gguf"]
    assert finding.state == "missing"
    assert 'pip install "asft-lab[smollm]"' in finding.text


def test_data_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(["model=smollm2_135m", f"data.root={tmp_path / 'nowhere'}"]) == 1
    shown = capsys.readouterr().out
    assert "no folder ft_datasets there" in shown
    assert "missing: settings" in shown


def test_a_real_model_on_synthetic_rows_is_told(pair_overrides: list[str]) -> None:
    finding = found(pair_overrides)["data"]
    assert finding.state == "note", "tests do it"
    assert "synthetic rows" in finding.text
    assert "data" not in found([]), "the embedded pair belongs there"


def test_the_embedded_pair_on_rows_of_ones_own_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "Who?", "a": "I"}\n{"q": "Why?", "a": "So"}\n')
    (tmp_path / "dataset").mkdir()
    table = {"path": str(tmp_path / "rows.jsonl")}
    task = {"name": "mine", "train": table, "test": table, "prompt": "{q}", "target": "{a}", "n_test": 2}
    task |= {"_target_": "asft.data.tasks.table.TableTask", "rule": "word", "max_new_tokens": 2}
    (tmp_path / "dataset" / "mine.yaml").write_text(json.dumps(task))
    finding = found([f"hydra.searchpath=[file://{tmp_path}]", "dataset=mine", "attack.n=2"])["data"]
    assert finding.state == "note"
    assert "model=tiny_llama understands only its embedded world, and dataset=mine has rows of its own" in finding.text


def test_a_pair_without_a_chat_template_is_told(pair_overrides: list[str], random_pair: Path, tmp_path: Path) -> None:
    assert "chat template" not in found(pair_overrides)
    bare = shutil.copytree(random_pair / "aligned", tmp_path / "bare")
    for path in bare.glob("chat_template*"):
        path.unlink()
    finding = found([*pair_overrides, f"model.aligned={bare}"])["chat template"]
    assert finding.state == "missing"
    assert f"model.aligned={bare}: its tokenizer has no chat template" in finding.text
    assert "chat template" not in found([*pair_overrides, f"model.aligned={bare}", "protocol=official"])


def test_outputs_that_cannot_be_written_and_packages_as_pip_knows_them() -> None:
    findings = found(["outputs=/proc/nowhere"])
    assert findings["outputs"].state == "missing"
    assert "cannot be written" in findings["outputs"].text
    assert not [what for what in findings if "_" in what and "=" not in what]


def test_outputs_without_locks_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "outputs" not in found([f"outputs={tmp_path}"])
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    finding = found([f"outputs={tmp_path}"])["outputs"]
    assert finding.state == "missing"
    assert finding.text == f"outputs={tmp_path}: has no file locks, by which processes share it; name another folder"
