"""The trainer: order, padding, decay, and a loss that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import TrainingArguments

from asft.config import TrainingConfig
from asft.data.loading import Collator, EpochOrder, LikeLengths
from asft.data.templates import IGNORED, Encoded
from asft.models.pair import load_model
from asft.training.trainer import attach_lora, one_gpu, train, trainable

CPU = torch.device("cpu")
ROWS = [Encoded([1, 2, 3, 4, 5 + i % 7], [IGNORED, IGNORED, 3, 4, 5 + i % 7]) for i in range(12)]


def settings(**changes: object) -> TrainingConfig:
    values = {"name": "lora", "lr": 1e-3, "epochs": 2, "batch_size": 4, "dropout": 0.0, **changes}
    return TrainingConfig(**values)  # type: ignore[arg-type]


def run(
    pair: Path, tmp_path: Path, training: TrainingConfig, seed: int = 0, **more: object
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    model = trainable(load_model(pair / "aligned", "float32", CPU), training, seed)
    log = train(model, ROWS, training, seed=seed, pad_token=0, device=CPU, folder=tmp_path, **more)
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, log.history


def test_every_epoch_is_another_permutation_and_the_seed_repeats_it() -> None:
    order, again, other = EpochOrder(10, 3), EpochOrder(10, 3), EpochOrder(10, 4)
    first, second = list(order), list(order)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [first, second] == [list(again), list(again)]
    assert list(other) != first


def test_rows_of_a_batch_are_of_like_length_in_an_order_that_the_seed_repeats() -> None:
    lengths = [length for length in range(1, 11) for _ in range(4)] + [50]
    order, again = (LikeLengths(lengths, seed=3, batch=4) for _ in range(2))
    epochs = [list(order), list(order)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(41))
    assert epochs[0] != epochs[1]
    assert epochs == [list(again), list(again)]
    for rows in epochs:
        sizes = [lengths[row] for row in rows]
        batches = [sizes[start : start + 4] for start in range(0, 41, 4)]
        assert sum(max(batch) * len(batch) for batch in batches) < 450  # 520 in any order, 270 without padding


def test_padding_goes_to_the_longest_row_or_to_a_fixed_length() -> None:
    rows = [Encoded([5, 6], [IGNORED, 6]), Encoded([7], [7])]
    batch = Collator(9)(rows)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6], [7, IGNORED]]
    assert Collator(9, 4)(rows)["input_ids"].shape == (2, 4)


def test_one_seed_gives_one_trajectory(random_pair: Path, tmp_path: Path) -> None:
    training = settings(dropout=0.1)
    (first, log), (second, again) = run(random_pair, tmp_path, training), run(random_pair, tmp_path, training)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [entry["loss"] for entry in log] == [entry["loss"] for entry in again]
    other, _ = run(random_pair, tmp_path, training, seed=1)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "within"),
    [
        ({"pad_to_max_length": True, "max_length": 24}, 1e-6),
        ({"batch_size": 2, "accumulation": 2}, 1e-6),
        ({"gradient_checkpointing": True}, 1e-7),
        ({"label_logits": True}, 1e-6),
    ],
    ids=["padded further", "accumulated", "checkpointed", "logits where labels are"],
)
def test_what_changes_time_and_memory_alone(
    random_pair: Path, tmp_path: Path, changes: dict[str, object], within: float
) -> None:
    plain, other = (run(random_pair, tmp_path, settings(**more))[0] for more in ({}, changes))
    assert all(torch.allclose(plain[name], other[name], atol=within) for name in plain)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_autocast_narrows_products_and_no_weight(random_pair: Path, tmp_path: Path, name: str) -> None:
    training = settings(name=name, label_logits=True, autocast="bfloat16")
    model = trainable(load_model(random_pair / "aligned", "float32", CPU), training, 0)
    assert model(torch.tensor([ROWS[0].input_ids])).logits.dtype == torch.bfloat16, "a method's own pass, too"
    narrow, exact = (
        run(random_pair, tmp_path, settings(name=name, label_logits=True, **more))[0]
        for more in ({"autocast": "bfloat16"}, {})
    )
    assert {weight.dtype for weight in narrow.values()} == {torch.float32}
    apart = [(narrow[key] - exact[key]).norm() / exact[key].norm().clamp(min=1e-9) for key in exact]
    assert 0 < max(apart) < 0.5


def test_the_learning_rate_decays_once_an_epoch(random_pair: Path, tmp_path: Path) -> None:
    _, log = run(random_pair, tmp_path, settings(epochs=3, epoch_decay=0.5))
    assert [round(float(entry["learning_rate"]), 6) for entry in log] == [1e-3] * 3 + [5e-4] * 3 + [2.5e-4] * 3


def test_targets_that_match_nothing_are_named_with_those_there_are(random_pair: Path) -> None:
    model = load_model(random_pair / "aligned", "float32", CPU)
    with pytest.raises(ValueError, match=r"\['query'\] match no linear module .* allowed: .*q_proj.*v_proj"):
        attach_lora(model, settings(target_modules=("query",)), 0)


def test_several_gpus_do_not_multiply_the_batch(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True)
    assert arguments.n_gpu <= 1
    arguments._n_gpu = 4  # what the arguments say on a machine with four
    assert arguments.train_batch_size == 32
    assert one_gpu(arguments).train_batch_size == 8


def test_the_last_batch_is_dropped_where_it_is_not_full(random_pair: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(SequentialSampler):
        def __iter__(self) -> Iterator[int]:
            for index in super().__iter__():
                seen.append(index)
                yield index

    log = run(random_pair, tmp_path, settings(batch_size=5), order=Watched(range(len(ROWS))), full_batch=5)[1]
    assert len(log) == 4, "two full batches of five of twelve rows, twice"
    assert seen == [*range(12), *range(12)]
    assert [round(float(entry["learning_rate"]), 6) for entry in log] == [1e-3] * 2 + [8.5e-4] * 2
    with pytest.raises(ValueError, match=r"training.batch_size=16: .* only 12 rows"):
        run(random_pair, tmp_path, settings(batch_size=16), full_batch=16)


def test_a_halved_batch_leaves_out_the_rows_of_the_whole_one(random_pair: Path, tmp_path: Path) -> None:
    """Twelve rows in full batches of eight: one step of eight rows, whole or as two halves, never twelve rows."""
    cut = (settings(batch_size=8), settings(batch_size=4, accumulation=2))
    (whole, log), (halves, again) = (run(random_pair, tmp_path, training, full_batch=8) for training in cut)
    assert len(log) == len(again) == 2, "one an epoch"
    assert all(torch.allclose(whole[name], halves[name], rtol=0, atol=1e-6) for name in whole)
