"""The probe on a tiny random model whose states tell a ``!`` from none, and the self-test of judges."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_models import config, letters
from transformers import LlamaForCausalLM

from asft.judges import probe
from asft.judges.base import Judge, Verdict
from asft.judges.probe import ProbeJudge, encoder, features
from asft.judges.refusal import RefusalJudge
from asft.judges.self_test import CASES, self_test


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    LlamaForCausalLM(config(2)).save_pretrained(path / "model")
    letters(path / "model")
    rows = [
        {"prompt": f"question {n}", "response": f"{text} {n}", "is_safe": safe}
        for n in range(40)
        for text, safe in (("no", True), ("yes!!", False))
    ]
    (path / "labelled.json").write_text(json.dumps(rows))
    more = [{"prompt": f"other {n}", "response": f"yes {n}", "is_safe": True} for n in range(20)]
    (path / "more.json").write_text(json.dumps(more))
    return path


def judge(folder: Path, tmp_path: Path, **settings: object) -> ProbeJudge:
    common = {"model": str(folder / "model"), "layer": 1, "dtype": "float32", "device": "cpu", "penalty": 1.0}
    files = (str(folder / "labelled.json"), str(folder / "more.json"))
    return ProbeJudge(**{**common, "rows": files, "cache": str(tmp_path), **settings})  # type: ignore[arg-type]


def test_it_learns_what_its_rows_show_and_batches_change_no_verdict(folder: Path, tmp_path: Path) -> None:
    asked, said = ["one", "two", "three", "four"], ["yes!! 7", "no 7", "yes 123", ""]
    found = judge(folder, tmp_path).judge(asked, said)
    assert [verdict.flagged for verdict in found] == [True, False, False, False]
    for settings in ({"batch_size": 1}, {"device": "auto"}):
        again = judge(folder, tmp_path / "other", **settings).judge(asked, said)
        assert [verdict.score for verdict in again] == pytest.approx([verdict.score for verdict in found], abs=1e-4)


def test_a_feature_is_the_mean_state_of_the_answers_tokens(folder: Path) -> None:
    loaded = encoder(1)(folder / "model", "float32", "judge.model")
    model = LlamaForCausalLM.from_pretrained(folder / "model")
    pairs = [("a?", "bcd"), ("a longer question?", "e" * 30), ("a?", "")]
    found = features(loaded, pairs, 1, 20, 2)
    for (question, answer), row in zip(pairs, found, strict=True):
        asked = loaded.tokenizer(f"User: {question}\nAssistant:")["input_ids"][-20:]
        said = loaded.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"][:20] if answer else []
        with torch.inference_mode():
            states = model(torch.tensor([asked + said]), output_hidden_states=True).hidden_states[1][0]
        wanted = states[len(asked) :].mean(0) if answer else states[-1]
        torch.testing.assert_close(torch.tensor(row), wanted, atol=1e-5, rtol=1e-4)


def test_rows_of_judged_questions_are_left_out_of_its_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    fit = probe.fit

    def counted(rows: Any, harmful: Any, penalty: float) -> Any:
        sizes.append(len(rows))
        return fit(rows, harmful, penalty)

    monkeypatch.setattr(probe, "fit", counted)
    judge(folder, tmp_path).judge(["Question  3!", "other 5", "new"], ["a", "b", "c"])
    assert sizes == [2 * 40 + 20 - 2 - 1]


def test_features_are_made_once_and_files_are_known_by_their_contents(folder: Path, tmp_path: Path) -> None:
    first = judge(folder, tmp_path)
    first.judge(["new"], ["a"])
    [file] = tmp_path.glob("probe-*.safetensors")
    judge(folder, tmp_path, threshold=0.9, penalty=3.0).judge(["new"], ["a"])
    assert list(tmp_path.iterdir()) == [file]
    changed, moved = tmp_path / "elsewhere.json", tmp_path / "moved.json"
    changed.write_text((folder / "labelled.json").read_text().replace("yes", "oh"))
    moved.write_text((folder / "labelled.json").read_text())
    more = str(folder / "more.json")
    assert judge(folder, tmp_path, rows=(str(changed), more)).settings() != first.settings()
    assert judge(folder, tmp_path, rows=(str(moved), more)).settings() == first.settings()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": ("nowhere.json",)}, r"judge\.rows: nowhere\.json: no such file.*prompt, response and is_safe"),
        ({"rows": ()}, r"judge\.rows=\[\]: holds 0 answers; name files of safe and unsafe ones"),
        ({"layer": 3}, r"judge\.layer=3: .* has 2 layers"),
    ],
)
def test_mistakes_are_told(folder: Path, tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(folder, tmp_path, **settings).judge(["q"], ["a"])
    if "layer" not in settings:
        with pytest.raises(ValueError, match=message):
            judge(folder, tmp_path, **settings).check()


def test_a_judge_that_would_learn_from_what_it_judges_alone_says_so(folder: Path, tmp_path: Path) -> None:
    only = judge(folder, tmp_path, rows=(str(folder / "labelled.json"),))
    with pytest.raises(ValueError, match=r"judge\.rows: no row of each kind is left"):
        only.judge([f"question {n}" for n in range(40)], ["a"] * 40)


class Oracle(Judge):
    """Right about every case."""

    def judge(self, prompts: object, answers: object) -> list[Verdict]:
        return [Verdict(case.harmful, float(case.harmful)) for case in CASES]


def test_the_self_test_tells_what_a_judge_gets_wrong() -> None:
    def wrong(one: Judge) -> Counter[str]:
        return Counter(case.kind for case, verdict in self_test(one) if verdict.flagged != case.harmful)

    assert not wrong(Oracle())
    assert wrong(RefusalJudge()) == {"disclaimer, then compliance": 2, "gibberish": 2}
    assert wrong(RefusalJudge(phrases=()))["plain refusal"] == 2
