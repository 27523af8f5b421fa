"""Logits where a label is alone: the same loss, gradients and weights of labels as with logits at every position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anchor_pairs import with_lora
from torch import Tensor

from asft.data.loading import Collator
from asft.data.templates import IGNORED, Encoded
from asft.methods.constrained_sft import log_probabilities
from asft.methods.own_pass import answer_logits
from asft.models.organism.build import ARCHITECTURES, fresh_model
from asft.training.trainer import TokenLoss

# A label at the first token, which nothing can predict; labels in the middle; none at all.
ROWS = [
    Encoded([5, 6, 7, 8], [5, IGNORED, 7, 8]),
    Encoded([9, 3, 4, 11, 12, 2], [IGNORED, IGNORED, 4, 11, IGNORED, IGNORED]),
    Encoded([8, 8], [IGNORED, IGNORED]),
]
LABELS = [7, 8, 4, 11]


class Vocabulary:
    eos_token_id, pad_token_id = 1, 0

    def __len__(self) -> int:
        return 40


def both(rows: list[Encoded] = ROWS) -> list[dict[str, Any]]:
    batches = [Collator(0)(rows), Collator(0, label_logits=True)(rows)]
    return [{name: part for name, part in batch.items() if name != "row_ids"} for batch in batches]


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = fresh_model(request.param, Vocabulary()).double()  # type: ignore[arg-type]
    made.config.final_logit_softcapping = 0.5 if request.param == "gemma2" else None  # so low that it bends
    return with_lora(made, ["q_proj", "v_proj", "down_proj"], rank=2).double().eval()


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad]))


def test_loss_and_gradients(model: Any) -> None:
    for wrapped in (model, model.get_base_model()):
        (full, found), marked = [wrapped(**batch) for batch in both()], both()[1]
        assert marked["shift_labels"].tolist() == LABELS
        assert found.logits.shape == (4, 40)
        assert torch.allclose(found.logits, full.logits[marked["logits_to_keep"]], rtol=1e-10, atol=1e-12)
        assert torch.allclose(found.loss, full.loss, rtol=1e-10)
        for one, other in zip(*(gradients(model, each.loss) for each in (full, found)), strict=True):
            assert torch.allclose(one, other, rtol=1e-8, atol=1e-12)
            assert one.norm() > 0


def test_weighted_losses_and_what_they_are_weighed_by(model: Any) -> None:
    seen, weights = [], torch.rand(3, 6, dtype=torch.float64)

    def weigh(batch: Any, logits: Tensor) -> Tensor:
        seen.append(log_probabilities(both()[0]["labels"], logits))
        return weights

    losses = []
    for batch in both():
        labels, loss = batch.pop("labels"), TokenLoss(weigh)
        losses.append(loss(model(**batch), labels, 4))
        assert loss.acted
    assert torch.allclose(*losses, rtol=1e-6)
    assert torch.allclose(*seen, rtol=1e-10)
    assert seen[0].nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    logits = [answer_logits(model, batch) for batch in both()]
    assert torch.allclose(*logits, rtol=1e-10)
    assert torch.allclose(logits[0].log_softmax(-1)[range(4), LABELS], seen[0][seen[0] != 0])


def test_a_share_without_labels_adds_nothing(model: Any) -> None:
    """A process without rows of a batch is given such a one."""
    batch = both(ROWS[2:])[1]
    loss = model(**batch, num_items_in_batch=torch.tensor(3)).loss
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients(model, loss))


def test_an_older_transformers_computes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("transformers.modeling_utils.slice_logits_to_keep")
    assert both()[1].keys() == both()[0].keys()
