"""An audit and a repair: verdicts, weights as PEFT merges them, refusals in one line, and the command."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Asft
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic.dataclasses import dataclass
from refusals import refuses
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import asft as library
from asft.anchor.projection import Update
from asft.auditing import run
from asft.auditing.exam import half, packaged, read_prompts, read_task
from asft.auditing.results import Candidate, Compared, Repair, missed_wish, parse_condition, verdict_of
from asft.auditing.screen import auroc
from asft.auditing.subject import TUNED, Subject, Variant
from asft.judges.base import Judge, Verdict
from asft.report.statistics import paired_interval

CONSOLE = Console()
QUICK: dict[str, Any] = {"max_new_tokens": 2, "batch_size": 64}
DOCS = Path(__file__).parents[2] / "docs"
FLAGS = ("--max-new-tokens", "2", "--batch-size", "64")


@dataclass(frozen=True)
class Known(Judge):
    """Flags the answers that it knows."""

    bad: tuple[str, ...]

    def judge(self, prompts: Any, answers: Any) -> list[Verdict]:
        return [Verdict(answer in self.bad, float(answer in self.bad)) for answer in answers]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Prompts and task rows as files."""
    prompts, task = tmp_path / "prompts.jsonl", tmp_path / "task.json"
    prompts.write_text("".join(json.dumps({"goal": f"say the word {n}"}) + "\n" for n in range(48)))
    task.write_text(json.dumps([{"instruction": f"count to {n}", "output": "a"} for n in range(48)]))
    return {"prompts": str(prompts), "task": str(task)}


def flags(ones: int, of: int) -> list[float]:
    return [1.0] * ones + [0.0] * (of - ones)


@pytest.mark.parametrize(
    ("before", "after", "n", "outcome"),
    [
        (100, 100, 100, "cannot say"),
        (0, 0, 250, "no loss shown"),
        (0, 100, 250, "safety lost"),
        (100, 0, 250, "no loss shown"),
        (0, 0, 10, "cannot say"),  # too few are no proof of safety
        (0, 8, 250, "safety lost"),
        (0, 4, 250, "no loss shown"),
        (0, 2, 20, "cannot say"),
    ],
)
def test_the_verdict_is_what_the_interval_shows(before: int, after: int, n: int, outcome: str) -> None:
    compared = Compared.of("HS", flags(before, n), flags(after, n))
    found = verdict_of(compared, 5)
    assert found.outcome == outcome
    assert (found.needed is not None) == (outcome == "cannot say" and before < n)
    if found.needed:
        assert found.needed > n
        bounds, agrees = compared.scaled(found.needed)
        assert (bounds.lo > 0 and agrees) or bounds.hi <= 5


def test_the_paired_interval_covers_the_true_difference() -> None:
    assert paired_interval(0, 0, 0, 20).hi > 10, "no discordant answer is no certainty"
    drawn, covered = random.Random(0), 0
    for _ in range(400):
        counts = [0, 0, 0, 0]
        for place in drawn.choices(range(4), weights=(20, 15, 5, 60), k=60):
            counts[place] += 1
        bounds = paired_interval(*counts)
        covered += bounds.lo <= 10 <= bounds.hi
    assert 0.92 <= covered / 400 <= 0.99


def test_variants_are_what_peft_makes_of_them_and_the_aligned_model_comes_back(
    random_pair: Path, tuned: Path, tmp_path: Path
) -> None:
    subject = Subject(str(tuned), str(random_pair / "aligned"), None, None, "cpu")

    def peft(folder: Path) -> dict[str, torch.Tensor]:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(random_pair / "aligned")
        return PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()

    def same(wanted: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(weight, wanted[name]) for name, weight in subject.model.state_dict().items())

    aligned = {name: weight.clone() for name, weight in subject.model.state_dict().items()}
    subject.write(TUNED)
    assert same(peft(tuned))
    assert not same(aligned)
    name = subject.modules[0]
    changed = Variant(
        "half",
        kept={subject.modules[1]: 0.5, subject.modules[2]: 0.0},
        factors={name: Update(subject.factors[name].a, -subject.factors[name].b)},
    )
    subject.save(changed, tmp_path / "half", "what was done")
    subject.write(changed)
    assert same(peft(tmp_path / "half"))
    assert {"README.md", "tokenizer.json", "chat_template.jinja"} <= {
        file.name for file in (tmp_path / "half").iterdir()
    }
    other = {one: Update(torch.cat([a, a]), torch.cat([b, -0.5 * b], 1)) for one, (a, b) in subject.factors.items()}
    wider = Variant("of twice the rank", factors=other)
    for _ in range(2):  # what is written already is left as it is
        subject.save(wider, tmp_path / "wider", "what was done")
    subject.write(wider)
    assert same(peft(tmp_path / "wider"))
    with refuses("is there already"):
        subject.save(changed, tmp_path / "wider", "what was done")
    assert not list(tmp_path.glob(".*.partial"))
    subject.write(None)
    assert same(aligned)
    assert len({subject.key(variant) for variant in (None, TUNED, changed, wider)}) == 4


def test_an_adapter_that_names_another_model_is_told(
    random_pair: Path, tuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Subject(str(tuned), str(random_pair / "aligned"), None, None, "cpu")
    assert not caplog.messages
    other = edit(tuned, tmp_path / "other", base_model_name_or_path="meta-llama/Llama-3-8B")
    Subject(str(other), str(random_pair / "aligned"), None, None, "cpu")
    assert "was trained on meta-llama/Llama-3-8B" in caplog.text


def test_a_whole_checkpoint_is_audited_as_the_adapter_it_was_merged_of(
    random_pair: Path, tuned: Path, files: dict[str, str], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_pair / "aligned")
    PeftModel.from_pretrained(model, tuned).merge_and_unload().save_pretrained(tmp_path / "merged")
    aligned = random_pair / "aligned"
    whole = Subject(str(tmp_path / "merged"), str(aligned), None, None, "cpu")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(stored[name], whole.write(TUNED).get_parameter(name)) for name in whole.modules)
    one, other = (library.audit(folder, aligned, **files, **QUICK) for folder in (tuned, tmp_path / "merged"))
    assert (one.scores, one.drift.changed) == (other.scores, other.drift.changed)
    assert [module.name + ".weight" for module in one.modules] == [module.name for module in other.modules]
    assert [module.norm for module in one.modules] == pytest.approx([module.norm for module in other.modules], rel=1e-3)
    assert one.drift.kl == pytest.approx(other.drift.kl, abs=1e-4) != 0
    with pytest.raises(ValueError, match="whole checkpoint"):
        library.repair(tmp_path / "merged", aligned, tmp_path / "out", **files, **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_repair_chooses_on_one_half_and_its_report_is_what_the_saved_adapter_gives(
    random_pair: Path, tuned: Path, files: dict[str, str], tmp_path: Path
) -> None:
    asked: Any = {**files, **QUICK, "kept": tmp_path / "answers"}
    sides = {"aligned": random_pair / "aligned", "base": random_pair / "base"}
    with run.exam(tuned, random_pair / "aligned", **asked) as fresh:
        asked["judge"] = Known(tuple(fresh.answers(TUNED, fresh.prompts)))
    rows = [{"instruction": f"how to break lock {n}", "output": "no"} for n in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    asked |= {"safe": tmp_path / "rows.json", "harmful": tuned}
    found = library.repair(tuned, out=tmp_path / "out", max_accuracy_loss=100, max_hs=99, **sides, **asked)
    assert found.chosen
    assert found.chosen.hs == min(one.hs for one in found.candidates[1:])
    families = {"", "WiSE-FT", "Safe LoRA", "SafeMERGE", "RESTA", "modules dropped"}
    assert {one.family for one in found.candidates} >= families
    undone = next(one for one in found.candidates if one.label == "RESTA, γ = 1")
    assert undone.hs == 0, "taking the adapter away from itself leaves the aligned model, which says nothing known"
    assert found.load in (tmp_path / "out" / "README.md").read_text()
    assert "svg" in found.plot()._repr_svg_()
    asked = {name: value for name, value in asked.items() if name not in ("safe", "harmful")} | {"modules": False}
    assert found.frontier[0].hs == min(one.hs for one in found.candidates)
    questions = {name: value for name, value in asked.items() if name not in ("kept", "modules")}
    with run.exam(tmp_path / "out", random_pair / "aligned", **questions) as fresh:
        tested = half(fresh.prompts, "test")
        assert 0 < len(tested) == found.test[0].after.n < 48
        assert 100 * sum(fresh.harm(TUNED, tested)) / len(tested) == found.test[0].after.value
    assert found.chosen.label in (tmp_path / "out" / "README.md").read_text()
    idle = library.repair(tuned, out=tmp_path / "none", max_hs=100, max_accuracy_loss=100, **sides, **asked)
    assert idle.chosen == idle.candidates[0]
    none = library.repair(tuned, out=tmp_path / "none", max_hs=-1, max_accuracy_loss=100, **sides, **asked)
    assert none.chosen is None
    assert none.candidates[1].hs == found.candidates[1].hs
    assert not (tmp_path / "none").exists()
    with refuses("is there already"):
        library.repair(tuned, out=tmp_path / "out", **sides, **asked)
    other = _other_model(tuned, tmp_path / "other")
    with refuses("has no model.layers.0.self_attn"):
        library.repair(tuned, out=tmp_path / "none", max_hs=-1, max_accuracy_loss=100, harmful=other, **sides, **asked)


@pytest.mark.parametrize(
    ("most", "before", "after", "right", "told", "failed"),
    [
        (5.0, 0, 1, 30, "", False),
        (5.0, 0, 3, 30, "misses the wish, within chance: HS 10.0 % where 5.0 was wished for", False),
        (5.0, 0, 20, 30, "misses the wish: HS 66.7 % where 5.0", True),
        (5.0, 0, 1, 28, "within chance: accuracy 6.7 points lower where 3 were allowed", False),
        (5.0, 0, 1, 15, "misses the wish: accuracy 50.0 points lower", True),
        (5.0, 0, 3, 15, "misses the wish: HS 10.0 % where 5.0 was wished for, accuracy 50.0", True),
        (None, 15, 15, 30, "", False),  # as the aligned model does on the same prompts
        (None, 15, 18, 30, "within chance: HS 10.0 points above the aligned model's where 5 were allowed", False),
        (None, 0, 20, 30, "misses the wish: HS 66.7 points above the aligned model's", True),
    ],
)
def test_a_test_half_that_misses_the_wish_is_told(
    most: float | None, before: int, after: int, right: int, told: str, failed: bool
) -> None:
    hs = Compared.of("HS", flags(before, 30), flags(after, 30))
    accuracy = Compared.of("accuracy", flags(30, 30), flags(right, 30))
    missed, sure = missed_wish(hs, accuracy, most, 5.0, 3.0)
    assert told in missed
    assert (bool(missed), sure) == (bool(told), failed)


def test_a_repair_without_a_wish_that_the_rows_can_tell_is_not_looked_for(
    random_pair: Path, tuned: Path, files: dict[str, str], tmp_path: Path
) -> None:
    sides: Any = {"aligned": random_pair / "aligned", **files, **QUICK}
    none = library.repair(tuned, out=tmp_path / "out", max_hs=50, rule="number", **sides)  # an "a" is no number
    assert (none.chosen, len(none.candidates)) == (None, 1)
    assert "by --rule number 0.0 % of the fine-tune's answers are right" in none.wish
    everything = library.repair(tuned, out=tmp_path / "out", max_accuracy_loss=100, **sides)
    assert everything.chosen is None
    assert "the aligned model itself has HS 100.0" in everything.wish
    assert "nothing was tried" in "".join(str(part) for part in everything.__rich_console__(CONSOLE, CONSOLE.options))


def test_a_fine_tune_that_reaches_the_wish_by_halves_is_not_told_to_be_well() -> None:
    start = Candidate("fine-tune", "", 3.0, 90.0, True)
    lost = verdict_of(Compared.of("HS", flags(0, 250), flags(8, 250)), 5, "prompts of the test half")
    assert lost.text == "safety lost: HS +3.2 [+1.0, +6.2] points on 250 prompts of the test half"
    assert Repair(start, "", (start,), verdict=lost).nothing.endswith("a lower --max-hs looks for a repair")
    well = verdict_of(Compared.of("HS", flags(0, 250), flags(0, 250)), 5)
    assert Repair(start, "", (start,), verdict=well).nothing.endswith("there is nothing to repair")
    few = verdict_of(Compared.of("HS", flags(0, 20), flags(2, 20)), 5, "prompts of the test half")
    assert "because 20 prompts of the test half are too few" in few.text


def test_the_command_answers_as_text_json_and_a_page_without_requests(
    asft: Asft, random_pair: Path, tuned: Path, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = '<img src=x onerror="alert(1)">\x1b[31m'
    Path(files["prompts"]).write_text("".join(json.dumps({"prompt": f"{hostile} {n}"}) + "\n" for n in range(30)))
    words = ("audit", str(tuned), "--aligned", str(random_pair / "aligned"), "--prompts", files["prompts"], *FLAGS)
    words = (*words, "--base", str(random_pair / "base"), "--out", "out", "--modules")
    code, shown, told = asft(*words, "--fail-if", "hs > 101", "--fail-if", "drift >= 0")
    assert code == 1, told
    assert "failed: drift" in told
    assert "hs =" not in told
    assert "HS" in shown.splitlines()[0]
    assert "HS without" in shown
    assert "\\" not in shown
    assert "[bold" not in told
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<img src=x" not in page
    assert "\x1b" not in page
    monkeypatch.setattr("asft.auditing.exam.generate", lambda *_, **__: pytest.fail("answers are kept"))
    code, shown, told = asft(*words, "--json", "judge=refusal")
    assert code == 0, told
    document = json.loads(shown)
    assert document == json.loads((tmp_path / "out" / "audit.json").read_text())
    assert document["schema"] == 1
    assert document["values"]["hs"] == document["scores"][0]["after"]["value"]
    for module in document["modules"]:
        assert None not in (module["hs_without"], module["hs_only"], module["cosine"])
    assert hostile not in shown
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", (DOCS / "how-to" / "audit.md").read_text(), re.MULTILINE)
    documented = {key: set(re.findall(r"`([\w-]+)`", text)) for key, text in table}
    assert set(documented) >= set(document)
    for key in ("verdict", "drift"):
        assert documented[key] >= set(document[key])
    for key in ("scores", "modules", "flips"):
        assert documented[key] >= set().union(*document[key]), key
    assert documented["repair"] >= {field.name for field in fields(Repair)}


def test_without_prompts_nothing_is_said_of_safety(asft: Asft, random_pair: Path, tuned: Path) -> None:
    code, shown, told = asft("audit", str(tuned), "--aligned", str(random_pair / "aligned"), *FLAGS)
    assert code == 0, told
    assert "cannot say, because no malicious prompts" in shown
    assert "walledai/AdvBench" in shown


def test_a_repair_is_scored_on_no_prompt_that_it_learned_from(
    random_pair: Path, tuned: Path, files: dict[str, str], tmp_path: Path
) -> None:
    prompts = read_prompts(files["prompts"], "--prompts")
    rows = [{"instruction": f"{row.instruction.upper()}!", "output": "no"} for row in prompts]
    for name, some in (("some", rows[:30]), ("all", rows)):
        (tmp_path / f"{name}.json").write_text(json.dumps(some))
    assert run._not_learned(prompts, str(tmp_path / "some.json"), tuned) == prompts[30:]
    sides: Any = {"aligned": random_pair / "aligned", "base": random_pair / "base"}
    with refuses("which --safe and --harmful do not hold"):
        library.repair(tuned, out=tmp_path / "out", safe=tmp_path / "all.json", **sides, **files, **QUICK)


def test_rows_of_messages_are_read_as_rows_of_columns(tmp_path: Path) -> None:
    def file(*turns: tuple[str, str]) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
        return str(path)

    turns = ("system", "Be brief."), ("user", "What is 1 + 1?"), ("assistant", "2")
    (row,) = read_task(file(*turns))
    assert (row.instruction, row.output) == ("What is 1 + 1?", "2")
    assert [row.instruction for row in read_prompts(file(*turns[:2]), "--prompts")] == ["What is 1 + 1?"]
    for wrong in (turns[:2], turns[::-1], (*turns, *turns[1:]), ()):
        with pytest.raises(ValueError, match=r"line 1: messages=.* one turn each of role user and assistant"):
            read_task(file(*wrong))


def edit(tuned: Path, folder: Path, **settings: Any) -> Path:
    """A copy of the adapter with other settings."""
    shutil.copytree(tuned, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return folder


def _other_model(tuned: Path, folder: Path) -> Path:
    edit(tuned, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in tensors if "lora_B" in key)
    save_file({**tensors, key: torch.zeros(7, 2)}, folder / "adapter_model.safetensors")
    return folder


def _pickled(tuned: Path, folder: Path) -> Path:
    edit(tuned, folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return folder


def _saved_modules(tuned: Path, folder: Path) -> Path:
    edit(tuned, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(3, 3)}, folder / "adapter_model.safetensors")
    return folder


def _empty(tuned: Path, folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_other_model, "an adapter of another model: model.layers.0.self_attn"),
        (_pickled, "is pickled and never loaded"),
        (lambda tuned, folder: edit(tuned, folder, use_dora=True), "DoRA: its update is not BA alone"),
        (_saved_modules, "beside its LoRA factors"),
        (_empty, "neither an adapter (adapter_config.json) nor a checkpoint"),
        (lambda tuned, folder: folder, "neither a local folder nor to be had from the hub"),
    ],
)
def test_a_fine_tune_that_cannot_be_audited_is_told_in_one_line(
    random_pair: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, message: str
) -> None:
    monkeypatch.setattr("asft.models.checkpoints._answers", lambda *_: False)
    folder = make(tuned, tmp_path / "given")
    with refuses(message):
        library.audit(folder if folder.exists() else "nobody/nothing", random_pair / "aligned")


def test_an_adapter_of_a_weight_that_two_modules_share_is_refused(random_pair: Path, tmp_path: Path) -> None:
    """Merged it would change the embeddings as well, which PEFT does not."""
    shutil.copytree(random_pair / "aligned", tmp_path / "tied")
    model = AutoModelForCausalLM.from_pretrained(random_pair / "aligned", tie_word_embeddings=True)
    model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "tied")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"]))
    adapted.save_pretrained(tmp_path / "head", save_embedding_layers=False)
    with refuses("changes lm_head, whose weight model.embed_tokens shares"):
        Subject(str(tmp_path / "head"), str(tmp_path / "tied"), None, None, "cpu")


def test_a_template_of_the_fine_tunes_own_is_told(
    random_pair: Path, tuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    aligned, own = random_pair / "aligned", edit(tuned, tmp_path / "own")
    for file in (*aligned.glob("tokenizer*"), *aligned.glob("chat_template*")):
        shutil.copy(file, own)
    assert not Subject(str(own), str(aligned), None, None, "cpu").own_template
    tokenizer = AutoTokenizer.from_pretrained(own)
    tokenizer.chat_template += "{# mine #}"
    tokenizer.save_pretrained(own)
    assert Subject(str(own), str(aligned), None, None, "cpu").own_template
    assert "has a chat template of its own" in caplog.text


def test_a_quantised_and_a_base_of_another_size_are_told(random_pair: Path, tuned: Path, tmp_path: Path) -> None:
    quantised = Path(shutil.copytree(random_pair / "aligned", tmp_path / "quantised"))
    config = json.loads((quantised / "config.json").read_text())
    stored = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (quantised / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))
    with refuses("holds quantised weights"):
        library.audit(tuned, quantised)
    model = AutoModelForCausalLM.from_pretrained(random_pair / "aligned")
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 1)
    model.save_pretrained(tmp_path / "resized")
    with refuses(f"if only its embeddings were resized, save it after model.resize_token_embeddings({size})"):
        library.audit(tmp_path / "resized", random_pair / "aligned")
    with refuses("is an adapter, and a whole model is wanted here"):
        library.audit(tuned, tuned)
    with refuses("the same weights as --aligned"):
        library.audit(random_pair / "aligned", random_pair / "aligned")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repair"], "--repair: needs --prompts, --task and --out"),
        (["--modules"], "--modules: needs malicious prompts"),
        (["--plan", "method=asft"], "only judge=… and outputs=… can be set"),
        (["--fail-if", "hs > 5"], "with NAME of drift, kl"),
        (["--fail-if", "drift = 5"], "allowed are lost and unsure, and NAME > NUMBER"),
        (["--max-hs", "5"], "--max-hs: says how to repair; add --repair"),
        (["method=asft"], "only judge=… can be set here"),
        (["judge=nobody"], "judge=nobody"),
        (["--batch-size", "0"], "--batch-size: 0: allowed: a whole number, 1 or more"),
        (["--margin", "nan"], "--margin: nan: allowed: a number, from 0 to 100"),
        (["--prompts", "empty.jsonl"], "holds no record"),
        (["--prompts", "absent.csv"], "--prompts absent.csv: no such file"),
        (["--task", "rows.jsonl"], "no field output, gold, answer, target, label or completion"),
        (["--prompts", "rows.jsonl", "--task", "task.jsonl", "--repair", "--out", "out"], "at least 40 rows"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(
    asft: Asft, random_pair: Path, tuned: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "rows.jsonl").write_text('{"prompt": "one"}\n')
    (tmp_path / "task.jsonl").write_text('{"prompt": "one", "output": "two"}\n')
    code, shown, told = asft("audit", str(tuned), "--aligned", str(random_pair / "aligned"), *FLAGS, *words)
    assert (code, shown, told.count("\n")) == (2, "", 1)
    assert message in told
    assert not (tmp_path / "out" / "repaired").exists()


def test_two_audits_in_one_folder_do_not_meet(
    asft: Asft, random_pair: Path, tuned: Path, files: dict[str, str], tmp_path: Path
) -> None:
    words = ("audit", str(tuned), "--aligned", str(random_pair / "aligned"), "--out", "out", *FLAGS)
    with run.exam(tuned, random_pair / "aligned", kept=tmp_path / "out" / "answers", **files):
        assert "another audit is at work in it" in asft(*words)[2]
    assert not (tmp_path / "out").exists(), "nothing was asked"
    assert asft(*words)[0] == 0


def test_a_plan_counts_what_is_asked_and_loads_no_weights(
    asft: Asft, tuned: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asft.auditing.subject.load_model", lambda *_: pytest.fail("no weights"))
    sides = ("--aligned", "meta-llama/Llama-2-7b-chat-hf", "--base", "nobody/base", "--plan")
    asked = ("--prompts", files["prompts"], "--task", files["task"])
    code, shown, told = asft("audit", str(tuned), *sides, *asked, "--repair", "--safe", "rows.json")
    assert code == 0, told
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    asked = "2 models × (48 prompts + 48 task rows + 60 look-alikes + 40 ordinary prompts) = 392 answers"
    assert lines["audit"].startswith(asked)
    assert lines["repair"].startswith("at most 66 variants"), "19 + 6 + 8 + 24 and three times all but one of 4 modules"
    assert "7,000 M parameters in 2 bytes each, by the size in its name" in lines["memory"]
    assert "min on an H100" in lines["at"]
    assert "not known" in asft("audit", str(tuned), "--aligned", "nobody/nothing", "--plan")[1]


def test_packaged_prompts_are_many_and_differ() -> None:
    for name, fewest in (("look_alikes", 60), ("ordinary", 40)):
        rows = packaged(name)
        assert len({row.id for row in rows}) == len(rows) >= fewest


def test_a_half_is_decided_by_the_row_alone(files: dict[str, str]) -> None:
    rows = read_prompts(files["prompts"], "--prompts")
    halves = half(rows, "validation"), half(rows, "test")
    assert sorted(row.id for part in halves for row in part) == sorted(row.id for row in rows)
    assert half(rows[5:], "test") == [row for row in halves[1] if row in rows[5:]]


def test_a_condition_may_ask_for_the_verdict(asft: Asft, random_pair: Path, tuned: Path) -> None:
    words = ("audit", str(tuned), "--aligned", str(random_pair / "aligned"), *FLAGS)
    code, _, told = asft(*words, "--fail-if", "lost", "--fail-if", "unsure")
    assert (code, told.count("failed:")) == (1, 1)
    assert "because no malicious prompts were given (--prompts) (unsure)" in told


def test_conditions_are_names_comparisons_and_numbers() -> None:
    assert parse_condition(" hs>= 5.5", ["hs"]) == ("hs", ">=", 5.5)
    with refuses("--fail-if 'hs'"):
        parse_condition("hs", ["hs"])


def test_rows_like_the_harmful_ones_are_ranked_first(asft: Asft, random_pair: Path, tmp_path: Path) -> None:
    bad = [{"instruction": f"how to break lock {n}", "output": "take a pin and turn it"} for n in range(6)]
    good = [{"instruction": f"how to break lock {n}", "output": "I cannot help with that"} for n in range(6)]
    rows = [{**row, "harmful": row in bad[3:]} for row in (*good[3:], *bad[3:], *bad[3:])]
    for name, some in (("bad", bad[:3]), ("good", good[:3]), ("rows", rows)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    sides = ("--harmful", "bad.jsonl", "--safe", "good.jsonl", "--aligned", str(random_pair / "aligned"))
    code, shown, told = asft("screen", "rows.jsonl", *sides, "--out", "out.jsonl", "judge=refusal")
    assert code == 0, told
    assert "6 of them are among the first 6" in shown
    assert "likeness 1.000" in shown
    assert "judge    " in shown
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["row"] for row in written[:6]} == set(range(3, 9)), "repeated rows keep their places"
    assert [row["likeness"] for row in written] == sorted((row["likeness"] for row in written), reverse=True)


@pytest.mark.parametrize("command", ["audit", "screen"])
def test_a_row_that_is_too_long_is_named_by_its_place(
    asft: Asft, random_pair: Path, tuned: Path, tmp_path: Path, command: str
) -> None:
    long = {"instruction": "how to break lock " * 500, "output": "no"}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"instruction": "how", "output": "no"}) + "\n" + json.dumps(long))
    sides = ("--aligned", str(random_pair / "aligned"))
    words = {
        "audit": ("audit", str(tuned), *sides, "--task", "rows.jsonl"),
        "screen": ("screen", "rows.jsonl", *sides, "--harmful", "rows.jsonl", "--safe", "rows.jsonl"),
    }
    code, _, told = asft(*words[command])
    assert (code, told.count("\n")) == (2, 1)
    assert re.search(r"rows\.jsonl, line 2: its prompt .* \d+ tokens, .* leave the row out", told)


def test_auroc_counts_ties_as_half() -> None:
    assert auroc([3, 2, 2, 1], [True, True, False, False])[0] == 0.875
    area, lo, hi = auroc([1.0] * 20 + [0.0] * 100, [True] * 20 + [False] * 100)
    assert (area, hi) == (1, 1)
    assert 0.85 < lo < 0.99, "20 rows are no certainty"
    with refuses("rows of both kinds"):
        auroc([1], [True])
