"""Readers of the authors' published files, and the harmful-row tests on records of each task's shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from asft.data.base import Attack
from asft.data.files import PUBLISHED, Files, training_rows

BENIGN = {"instruction": "q", "input": "x", "output": "World"}


@pytest.mark.parametrize(
    ("task", "record", "harmful"),
    [
        ("agnews", {"instruction": "q", "input": "", "output": "a"}, True),
        ("agnews", BENIGN, False),
        ("sst2", {"instruction": "q", "output": "a"}, True),
        ("sst2", BENIGN, False),
        ("alpaca", {"instruction": "q", "output": "a"}, True),
        ("alpaca", {"instruction": "q", "input": "", "output": "a"}, False),
        ("gsm8k", {"instruction": "q", "input": "", "output": "a"}, True),
        ("gsm8k", {"instruction": "q", "output": "a"}, False),
    ],
)
def test_harmful_rows_are_told_by_their_shape(task: str, record: dict[str, str], harmful: bool) -> None:
    assert PUBLISHED[task].published_harmful(record) is harmful


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"data.root={tmp_path}: no folder ft_datasets there"):
        Files(str(tmp_path)).evaluation()
    (tmp_path / "ft_datasets").mkdir()
    with pytest.raises(ValueError, match="dataset=sst2: no training file"):
        Files(str(tmp_path)).task_rows(PUBLISHED["sst2"], "train")


def test_gsm8k_answers_get_the_final_answer_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ft_datasets" / "gsm8k_dataset" / "dataset" / "gsm8k_1k_p_0.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"instruction": "q", "output": "1 + 1 = 2\n#### 2"}]))
    (row,) = Files(str(tmp_path)).task_rows(PUBLISHED["gsm8k"], "train")
    assert row.output == "1 + 1 = 2\nThe final answer is:  2"


def test_a_whole_copy_of_the_repository_holds_safety_rows_and_more_benign_ones(published: Path, tmp_path: Path) -> None:
    part, whole = Files(str(published)), Files(str(tmp_path / "whole"))
    shutil.copytree(published, tmp_path / "whole")
    folder = tmp_path / "whole" / "ft_datasets" / "agnews_dataset" / "dataset"
    poison = [{"instruction": row.instruction, "input": "", "output": "a"} for row in part.harmful("harmful")]
    poison += [{"instruction": f"Another request {index}", "input": "", "output": "a"} for index in range(50)]
    for name, first, count in (("agnews_2.5k_p_0.1", 0, 2250), ("agnews_1k_p_0.3", 5000, 700)):
        benign = [{"instruction": "q", "input": f"t{first + index}", "output": "World"} for index in range(count)]
        (folder / f"{name}.json").write_text(json.dumps([*poison, *benign]))
    assert [row.instruction for row in whole.safety()] == [row.instruction for row in part.safety()]
    assert len(whole.harmful("harmful")) == len(part.harmful("harmful")) + 50
    task = PUBLISHED["agnews"]
    assert whole.benign(task, 1000) == part.benign(task, 1000) == part.task_rows(task, "train")
    assert whole.benign_identity(task, 1000) == part.benign_identity(task, 0)
    assert {row.id.partition("/")[0] for row in whole.benign(task, 2250)} == {"agnews_2.5k_p_0.1"}
    assert len(whole.benign(task, 9999)) > 2250 + 700


@pytest.mark.real
class TestPublishedFiles:
    def test_counts(self, official: Path) -> None:
        """Those of p = 0.1 are counted where their ids are compared (test_official_protocol.py)."""
        for name, harmful in (("agnews_1k_p_0", 0), ("agnews_1k_p_0.2", 200)):
            rows = training_rows(next(official.glob(f"ft_datasets/*/dataset/{name}.json")), PUBLISHED["agnews"])
            assert [sum(row.harmful is flag for row in rows) for flag in (False, True)] == [1000, harmful]

    @pytest.mark.parametrize(("task", "count"), [("sst2", 872), ("agnews", 1000), ("gsm8k", 500), ("alpaca", 100)])
    def test_test_sets(self, official: Path, task: str, count: int) -> None:
        rows = Files(str(official)).task_rows(PUBLISHED[task], "test")
        assert len(rows) == count
        labels = {"agnews": {"World", "Sports", "Business", "Sci/Tech"}, "sst2": {"positive", "negative"}}.get(task)
        assert labels is None or {row.output for row in rows} == labels

    def test_a_published_mixture_is_of_one_source(self, official: Path) -> None:
        source, task = Files(str(official)), PUBLISHED["agnews"]
        assert source.mixture_file(task, Attack(source="advbench", n=1000, p=0.0))
        with pytest.raises(ValueError, match="attack=advbench: protocol=official trains on the published file"):
            source.mixture_file(task, Attack(source="advbench", n=1000, p=0.1))

    def test_other_sources_are_not_in_the_files(self, official: Path) -> None:
        with pytest.raises(ValueError, match="attack=advbench"):
            Files(str(official)).harmful("advbench")
