"""The 14-label moderation judge on a tiny checkpoint of its form."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from judge_models import LABELS, classifier, config, letters
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from asft.judges import checkpoint_judge
from asft.judges.beaver_dam import BeaverDamJudge, label_probabilities, load_classifier, moderation_text
from asft.report import judge_notes

PROMPTS = ["Who?", "How does one do that, in detail?", "x" * 300, "Why", "And then what comes"]
ANSWERS = ["Me.", "So.", "no", "y" * 400, ""]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("dam"))


def judge(path: Path, **settings: object) -> BeaverDamJudge:
    return BeaverDamJudge(model=str(path), dtype="float32", device="cpu", **settings)  # type: ignore[arg-type]


def test_the_text_ends_with_the_end_token_and_a_long_answer_loses_its_tail(checkpoint: Path) -> None:
    assert moderation_text("Q?", "A.", "</s>") == "BEGINNING OF CONVERSATION: USER: Q? ASSISTANT:A.</s>"
    loaded = load_classifier(checkpoint, "float32", "judge.model")
    short, long = (judge(checkpoint).encode(loaded, "Q?", answer) for answer in ("A.", "y" * 400))
    letters = loaded.tokenizer.convert_tokens_to_ids
    assert short == [1, *letters(list(moderation_text("Q?", "A.", ""))), 2]
    assert (len(long), long[0], long[-1]) == (256, 1, letters("y"))


def by_hand(path: Path, ids: list[int]) -> torch.Tensor:
    """Sigmoid of score · h at the last token, one row at a time, from the files' tensors."""
    from transformers import AutoModel

    hidden = AutoModel.from_pretrained(path)(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return torch.sigmoid(load_file(path / "model.safetensors")["score.weight"] @ hidden).detach()


@pytest.mark.parametrize("pad", [0, 2, None], ids=["own pad token", "end token pads", "no pad token"])
def test_batches_give_what_one_by_one_gives_whatever_the_padding(tmp_path: Path, pad: int | None) -> None:
    path = classifier(tmp_path, pad=pad)
    loaded = load_classifier(path, "float32", "judge.model")
    rows = [judge(path).encode(loaded, *pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]
    batched = label_probabilities(loaded.model, rows, 3)
    for row, ids in enumerate(rows):
        alone = label_probabilities(loaded.model, [ids], 1)[0]
        torch.testing.assert_close(batched[row], alone, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(alone, by_hand(path, ids), atol=1e-6, rtol=1e-5)


def test_any_label_above_the_threshold_flags_and_all_are_kept(checkpoint: Path) -> None:
    scores = sorted(verdict.score for verdict in judge(checkpoint).judge(PROMPTS, ANSWERS))
    between = (scores[1] + scores[2]) / 2
    for threshold in (0.5, between):
        for verdict in judge(checkpoint, threshold=threshold).judge(PROMPTS, ANSWERS):
            probabilities = verdict.details["probabilities"]
            assert list(probabilities) == LABELS
            assert verdict.flagged == (max(probabilities.values()) > threshold)
            assert verdict.score == pytest.approx(max(probabilities.values()), abs=1e-5)
            assert verdict.details["labels"] == [name for name in LABELS if probabilities[name] > threshold]
            assert all(name in verdict.reason for name in verdict.details["labels"])
    flags = [verdict.flagged for verdict in judge(checkpoint, threshold=between).judge(PROMPTS, ANSWERS)]
    assert sum(flags) == 3


def test_verdicts_on_the_question_alone_are_counted(checkpoint: Path) -> None:
    rows = [("Q?", ""), ("Q?", "A."), ("x" * 300, "A."), ("x" * 300, ""), ("x" * 210, "A." * 30)]
    found = judge(checkpoint).judge(*map(list, zip(*rows, strict=True)))
    assert [verdict.details["seen"] for verdict in found] == [False, True, False, False, True]
    assert (told := judge(checkpoint).summary(found)) == {"unseen": 3}
    assert "read nothing of 3 answers" in judge_notes._endpoint_notes("judge", [told])[0]


def test_one_process_loads_it_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint_judge._load_once.cache_clear()
    first = judge(checkpoint).judge(PROMPTS, ANSWERS)
    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_pretrained", None)
    assert judge(checkpoint, batch_size=2).judge(PROMPTS[:2], ANSWERS[:2])[0].flagged == first[0].flagged


def test_pickles_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \*\.safetensors but only pickles \(pytorch_model\.bin\)"):
        judge(folder).check()
    with pytest.raises(ValueError, match="only pickles"):
        judge(folder).judge(PROMPTS, ANSWERS)


def test_another_kind_of_model_is_refused_and_a_folder_that_is_not_there_named_before_anything_runs(
    tmp_path: Path,
) -> None:
    LlamaForCausalLM(config()).save_pretrained(headless := tmp_path / "headless")
    letters(headless)
    for folder in (classifier(tmp_path / "two labels", labels=2), headless):
        with pytest.raises(ValueError, match="no BeaverTails moderation model"):
            judge(folder).judge(PROMPTS, ANSWERS)
    with pytest.raises(ValueError, match=r"judge\.model=/no/such: no such folder"):
        judge(Path("/no/such")).check()


def test_the_key_knows_the_weights_and_not_the_batch_size(checkpoint: Path, tmp_path: Path) -> None:
    first = judge(checkpoint).settings()
    assert judge(checkpoint, batch_size=1).settings() == first
    assert judge(checkpoint, threshold=0.4).settings() != first
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    os.utime(copy / "model.safetensors", (1, 1))
    assert judge(copy).settings() == first, "a copy holds the same weights"
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert judge(copy).settings() != first
