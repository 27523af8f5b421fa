"""The examples in docs/ run as they stand, and the defence is on in them."""

from __future__ import annotations

import json
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from anchor_pairs import VOCABULARY, save_pair
from helpers import nightly
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pair with a tokenizer, and a few rows."""
    directory = tmp_path_factory.mktemp("world")
    save_pair(directory, "llama")
    words = ["</s>", "<unk>", *(f"w{number}" for number in range(VOCABULARY - 2))]
    model = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = Whitespace()
    special = {"eos_token": "</s>", "unk_token": "<unk>"}  # none to pad with, as Llama has none
    PreTrainedTokenizerFast(tokenizer_object=model, **special).save_pretrained(directory / "aligned")
    rows = [json.dumps({"text": f"w{number} w{number + 1} w{2 * number}"}) for number in range(16)]
    (directory / "rows.jsonl").write_text("\n".join(rows))
    return directory


def run(example: str, *arguments: Path) -> str:
    """What an example prints, in the manner of ``python example.py ARGUMENTS``."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(sys, "argv", [example, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    return printed.getvalue()


@pytest.mark.parametrize("example", ["trainer.py", nightly("sft_trainer.py")])
def test_training_and_projection(world: Path, tmp_path: Path, example: str) -> None:
    if example == "sft_trainer.py":
        pytest.importorskip("trl")
    printed = run(example, world / "base", world / "aligned", world / "rows.jsonl", tmp_path / "adapter")
    assert "asft/norm_orthogonal" in printed
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert max(float(value.abs().max()) for key, value in weights.items() if "lora_B" in key) > 0
    printed = run("project.py", tmp_path / "adapter", world / "base", world / "aligned", tmp_path / "out")
    assert len(printed.splitlines()) == 4
    assert "cos +" in printed
    assert (tmp_path / "out" / "safe_lora.json").exists()


def test_examples_stay_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert sum(bool(line.strip()) for line in path.read_text().splitlines()) <= 25, path.name
