"""Fixtures shared by all tests: small random pairs, the embedded pair, and the command line as a user types it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from published_files import write_published

from asft.cells.job import Job

REPOSITORY = Path(__file__).parent.parent
OFFICIAL = Path(os.environ.get("ASFT_TEST_DATA", REPOSITORY.parent / "shared" / "data" / "asft_official"))

nightly = partial(pytest.param, marks=pytest.mark.nightly)  # a parameter that `make test-nightly` alone tries

Cli = Callable[..., subprocess.CompletedProcess[str]]
Asft = Callable[..., tuple[int, str, str]]


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


@pytest.fixture(scope="session")
def random_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base`` and ``aligned`` of a two-layer Llama with random weights and the embedded world's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from asft.data.world.world import alignment_rows, harmful_rows, task_rows
    from asft.models.organism.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("pair")
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
    return folder


@pytest.fixture
def pair_overrides(random_pair: Path, tmp_path: Path) -> list[str]:
    """Overrides of a cell that trains in a moment on the random pair, in an outputs folder of its own."""
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
        f"outputs={tmp_path / 'outputs'}",
    ]


@pytest.fixture
def make_job(pair_overrides: list[str]) -> Callable[..., Job]:
    """Makes a job on the random pair from further overrides."""
    from asft.cells.compose import enumerate_cells

    def make(*overrides: str) -> Job:
        return enumerate_cells([*pair_overrides, *overrides], sweep=False).cells[0]

    return make


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


def pytest_collection_finish() -> None:
    """What imports left behind stays: the collections that follow each cell need not look through it."""
    gc.collect()
    gc.freeze()
