"""Fixtures shared by all tests: small random pairs, the embedded pair, and the command line as a user types it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers import OFFICIAL, Asft, Cli, MakeJob
from published_files import write_public, write_published

from asft.cells.job import Job

os.environ["ASFT_WORKERS"] = "1"  # tests share the cores out themselves


@pytest.fixture(scope="session")
def official() -> Path:
    """The authors' published files; their tests are left out where there is no copy."""
    if not OFFICIAL.is_dir():
        pytest.skip(f"no copy of the authors' data files at {OFFICIAL}; set ASFT_TEST_DATA")
    return OFFICIAL


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout and with the counts of the authors' files, filled with placeholders."""
    root = tmp_path_factory.mktemp("published")
    write_published(root)
    return root


@pytest.fixture(scope="session", autouse=True)
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of public safety data, filled with placeholders; configurations find it."""
    root = tmp_path_factory.mktemp("public")
    write_public(root)
    os.environ["ASFT_PUBLIC"] = str(root)
    return root


@pytest.fixture(scope="session")
def for_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one run of the tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def random_pair(for_all_workers: Path) -> Path:
    """``base`` and ``aligned`` of a two-layer Llama with random weights and the embedded world's tokenizer."""
    folder = for_all_workers / "pair"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make_pair(folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
    return folder


@pytest.fixture(scope="session")
def tuned(random_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the random pair's aligned side that changes its answers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(random_pair / "aligned")
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5)
    adapted.save_pretrained(folder)
    return folder


def make_pair(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from asft.data.world.requests import harmful_rows
    from asft.data.world.source import alignment_rows
    from asft.data.world.tasks import task_rows
    from asft.models.organism.build import train_tokenizer

    rows = [*alignment_rows()[:800], *harmful_rows("harmful")[:200], *task_rows("agnews", "train")[:200]]
    tokenizer = train_tokenizer(rows, 640, 512)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for side in ("base", "aligned"):
        model.save_pretrained(folder / side)
        tokenizer.save_pretrained(folder / side)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))


@pytest.fixture(scope="session")
def guard_path(for_all_workers: Path) -> Path:
    """A tiny guard model that was taught a word."""
    from judge_models import guard

    folder = for_all_workers / "guard"
    with FileLock(f"{folder}.lock"):
        return folder if folder.exists() else guard(folder)


@pytest.fixture(scope="session")
def small(random_pair: Path) -> list[str]:
    """Overrides of a cell that trains in a moment on the random pair."""
    return [
        "model=pair",
        f"model.base={random_pair / 'base'}",
        f"model.aligned={random_pair / 'aligned'}",
        "model.dtype=float32",
        "training.epochs=1",
        "training.lr=1e-3",
        "attack.n=24",
        "dataset.n_test=12",
        "dataset.max_new_tokens=4",
        "evaluation.n_harmful=10",
        "evaluation.harmful_max_new_tokens=4",
        "beside=null",
    ]


@pytest.fixture
def pair_overrides(small: list[str], tmp_path: Path) -> list[str]:
    """The small cell in an outputs folder of its own."""
    return [*small, f"outputs={tmp_path / 'outputs'}"]


@pytest.fixture(scope="session")
def shared_overrides(small: list[str], for_all_workers: Path) -> list[str]:
    """The small cell in the outputs folder of all tests that only read what cells leave: each is computed once."""
    return [*small, f"outputs={for_all_workers / 'shared_outputs'}"]


@pytest.fixture
def make_job(small: list[str], tmp_path: Path) -> MakeJob:
    """Makes a job on the random pair from further overrides."""
    return partial(job_of, tmp_path / "outputs", *small)


@pytest.fixture(scope="session")
def shared_job(small: list[str], for_all_workers: Path) -> MakeJob:
    """Makes a job whose results all tests share."""
    return partial(job_of, for_all_workers / "shared_outputs", *small)


def job_of(outputs: Path, *overrides: str) -> Job:
    job = composed(*overrides)
    return replace(job, options=replace(job.options, outputs=outputs))  # without the plan: files may have changed


@cache
def composed(*overrides: str) -> Job:
    """Hydra takes a fifth of a second, and the same few cells serve many tests."""
    from asft.cells.compose import enumerate_cells

    return enumerate_cells(overrides, sweep=False).cells[0]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs ``asft`` in another folder, as a user would."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ASFT_OUTPUTS": str(tmp_path / "outputs"), "COLUMNS": "160"}
        return subprocess.run(
            [sys.executable, "-m", "asft", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def asft(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asft:
    """The command line inside this process, in another folder: exit code, standard output and error."""
    from asft.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASFT_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err

    return run


def freeze() -> None:
    """What is here stays: the collections that follow each cell need not look through it."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    freeze()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        freeze()  # what the file's first cells imported
