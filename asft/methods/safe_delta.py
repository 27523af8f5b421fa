"""Safe Delta: keeps the part of a full fine-tune whose cost in safety stays below a budget (arXiv:2505.12038).

Per linear module but the output head, with X the inputs of the start on N refusals: H = (2/N) XᵀX + 1 % of its mean
diagonal, R the upper Cholesky factor of H⁻¹, d = diag R. Per block of columns, entries are taken in the order of
growing 1/d², which is that of falling utility per cost; the last 15 % never; an entry's fine-tuned value is accepted
while Σ ΔW²/d² ≤ mean(1/d²) · (s/2) · (o/4096). The others keep the start's value, corrected column by column for what
the accepted ones change, as in SparseGPT (arXiv:2301.00774).

1/d² is the same down a column: there the reference leaves the order to a sort that is not stable and so differs between
devices; here ties are taken from the top row down. 4096 is the reference's model width, kept so that s means the same.
All other weights (embeddings, norms, biases, the output head) are the start's, as in the reference: s = 0 is the start.
X comes from the untouched start, so that no module sees the edit of an earlier one, as there. Ours are two: the
correction goes column by column (there, not inside groups of four), and what is accepted is decided from the start's
values in every block (there, from values that earlier blocks have corrected: only above 2,048 columns).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Finished, Strength
from asft.methods.data_mixing import safety_rows
from asft.methods.post_hoc import PostHoc

if TYPE_CHECKING:
    from torch import Tensor

    from asft.methods.base import Model


@dataclass(frozen=True)
class SafeDelta(PostHoc):
    """Takes fine-tuned weights back to the start, entry by entry.

    Attributes:
        scale: s; 0.1 in the authors' code, 0 is the start.
        dropped: share of entries that is never accepted.
        damping: what is added to H, as a share of its mean diagonal.
        block: columns that share a budget.
        compensate: whether values that are not accepted are corrected.
        safe: refusals that H is of; 128 in the authors' code, with the model's own refusals.
        batch: rows in one pass; changes nothing but rounding.
    """

    name: ClassVar[str] = "safe_delta"
    label: ClassVar[str] = "Safe Delta"
    code: ClassVar[int] = 2
    needs_training: ClassVar[str] = "full"  # what comes out is no adapter of low rank
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.scale", "s", 0.001, 10, "log", safer="low"),)
    safety_field: ClassVar[str] = "safe"
    scale: Annotated[float, Field(ge=0)] = 0.1
    dropped: Annotated[float, Field(ge=0, lt=1)] = 0.15
    damping: Annotated[float, Field(gt=0)] = 0.01
    block: Annotated[int, Field(ge=1)] = 2048
    compensate: bool = True
    safe: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=1)] = 8

    def finish(self, model: Model, ctx: Context) -> Finished:
        """The edited weights, and the accepted share of each module's entries."""
        import torch

        from asft.methods.own_pass import batches, examples, in_parts, input_sums
        from asft.models.pair import load_like

        start = load_like(model, ctx.start)
        head = start.get_output_embeddings()
        linears = {n: m for n, m in start.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
        given = batches(examples(safety_rows(ctx, self.safe), ctx), ctx, self.batch, model.device)
        accepted = {}
        for part in in_parts(linears):
            sums = input_sums(start, part, given, lambda x: x.flatten(0, 1).mT @ x.flatten(0, 1))
            for name, total in sums.items():
                tuned = model.get_submodule(name).weight
                assert isinstance(tuned, torch.Tensor), "a linear module has a weight"
                made, mask = self.edit(linears[name].weight.detach().double(), tuned.detach().double(), total)
                with torch.no_grad():
                    tuned.copy_(made)
                accepted[name] = mask.double().mean().item()
        with torch.no_grad():
            for name, weight in start.named_parameters():
                if name.removesuffix(".weight") not in accepted:
                    model.get_parameter(name).copy_(weight)
        return Finished({"safe_delta": {"accepted": accepted}})

    def edit(self, start: Tensor, tuned: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The new weight and which entries are accepted, both o×i, from the two weights and XᵀX (i×i)."""
        import torch

        hessian = 2 / self.safe * sums
        hessian.diagonal().add_(self.damping * hessian.diagonal().mean())
        factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
        costs = factor.diagonal() ** -2
        made, mask = start.clone(), torch.zeros_like(start, dtype=torch.bool)
        for first in range(0, start.shape[1], self.block):
            part = slice(first, first + self.block)
            mask[:, part] = accept(tuned[:, part] - start[:, part], costs[part], self.scale, self.dropped)
        for column in range(start.shape[1]):
            old = made[:, column].clone()
            made[:, column] = torch.where(mask[:, column], tuned[:, column], old)
            if self.compensate:
                error = (old - made[:, column]) / factor[column, column]
                made[:, column + 1 :] -= torch.outer(error, factor[column, column + 1 :])
        return made, mask


def accept(change: Tensor, costs: Tensor, scale: float, dropped: float) -> Tensor:
    """Which entries of an o×k block are within its budget, given 1/d² of its columns (k)."""
    import torch

    spread = costs.expand_as(change).mT.flatten()  # column by column: the cheapest first, from the top row down
    order = spread.argsort(stable=True)[: round((1 - dropped) * spread.numel())]
    spent = (change.mT.flatten().square() * spread)[order].cumsum(0)
    within = spent <= costs.mean() * scale / 2 * change.shape[0] / 4096
    mask = torch.zeros(spread.numel(), dtype=torch.bool, device=change.device)
    mask[order[within]] = True
    return mask.view(change.shape[::-1]).mT
