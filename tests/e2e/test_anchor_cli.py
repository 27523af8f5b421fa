"""``asft anchor inspect``, ``asft project`` and ``asft align`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers import Asft
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from asft.cells.job import Job
from asft.models.pair import Pair
from asft.store.cleaning import at_work

pytestmark = pytest.mark.slow


def test_inspect_answers_whether_it_is_more_than_weight_decay(
    asft: Asft, pair_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, shown, told = asft("anchor", "inspect", *pair_overrides)
    assert code == 0, told
    assert shown.count("self_attn.q_proj") == 2
    assert "weight decay" in shown
    (folder,) = (tmp_path / "outputs" / "reports").glob("anchor_pair_asft_*")
    spectra = json.loads((folder / "spectrum.json").read_text())
    assert "eigenvalues" in json.dumps(spectra)
    page = (folder / "spectrum.html").read_text()
    assert "vegaEmbed" in page
    assert "<script src=" not in page, "the page opens offline"
    monkeypatch.setattr("asft.pipeline.prepare.prepare_pair", Mock(side_effect=AssertionError))
    assert asft("anchor", "inspect", *pair_overrides)[1] == shown, "what was measured is read"
    with pytest.raises(AssertionError):  # another spectrum, which has a folder of its own
        asft("anchor", "inspect", *pair_overrides, "training.target_modules=[q_proj]")
    assert json.loads((folder / "spectrum.json").read_text()) == spectra


def test_project_repairs_an_adapter_on_disk(asft: Asft, random_pair: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(random_pair / "aligned"),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    model.save_pretrained(str(tmp_path / "adapter"))
    arguments = ["--base", random_pair / "base", "--aligned", random_pair / "aligned", "--out", tmp_path / "safe"]
    code, shown, told = asft("project", str(tmp_path / "adapter"), *map(str, arguments), "--number", "2")
    assert code == 0, told
    assert "2 of 4 modules projected" in shown
    start = AutoModelForCausalLM.from_pretrained(random_pair / "aligned")
    projected = PeftModel.from_pretrained(start, str(tmp_path / "safe"))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert not torch.equal(projected(ids).logits, model.eval()(ids).logits)
    assert json.loads((tmp_path / "safe" / "safe_lora.json").read_text())


def test_align_says_where_the_pair_is(asft: Asft, pair_overrides: list[str], random_pair: Path) -> None:
    code, _, told = asft("align", *pair_overrides)
    assert code == 0
    assert str(random_pair / "aligned") in told


@pytest.mark.parametrize("command", ["align", "anchor inspect"])
def test_what_a_command_uses_is_not_removed(
    command: str, asft: Asft, pair_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(job: Job, **_: bool) -> Pair:
        raise ValueError(f"at work: {at_work(job.store)}")

    monkeypatch.setattr("asft.pipeline.prepare.prepare_pair", prepared)
    code, _, told = asft(*command.split(), *pair_overrides)
    assert code == 2
    assert "at work: True" in told
