"""SPARD: after a step that leaves the loss on safety rows too high, projects back (arXiv:2605.28030).

θ⁺ being the weights after the optimiser's step, ℓ the loss on a batch of safety rows and g = ∇ℓ(θ⁺): where ℓ(θ⁺) > τ,

    θ ← θ⁺ − min((ℓ − τ)/‖g‖², η) · g

the projection onto the half-space in which the linearised loss is at most τ. That is ``form=projection``. The authors'
code does otherwise, and ``form=code`` does as it does: where ℓ > τ + δ it clips g, scales each tensor's part by min((ℓ
− τ)/(‖g_p‖ + 1e-8), 1), the norm not squared, and lets the optimiser make one more step with it, whose moments are the
task's; AdamW hardly sees the scale, so what runs is a step of SFT on safety rows.

Safety rows are chosen as in the paper, by greedy maximisation of det L over subsets (a determinantal process): L =
diag(q^β) K diag(q^β) + 1e-6 I, K being the cosines of mean last hidden states, q a row's largest cosine to a user's
row. Rows are embedded as they are trained on, template and answer included; the authors' code embeds the bare prompts.
The authors draw the attack from the very file that the attack is evaluated on; here pools are disjoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Method, Strength

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

    from asft.config import Settings
    from asft.methods.base import Model
    from asft.methods.own_pass import Batch, OwnPass


@dataclass(frozen=True)
class Spard(Method):
    """Plain SFT with a bound on the safety loss.

    Attributes:
        tau: τ in nats a token; 0.2 in the authors' scripts.
        form: see the module's docstring.
        slack: δ, for ``code``; 0.1 in the scripts.
        cap: η, for ``projection``; 1, the bound that the code has in its place.
        clip: largest norm of g, for ``code``; the Trainer's default.
        share: safety rows as a share of n; 0.03 in the paper.
        batch: of them at a step; 1 times 4 micro-batches in the scripts.
        relevance: β; 4 in the code.
    """

    name: ClassVar[str] = "spard"
    label: ClassVar[str] = "SPARD"
    # Safety rows mixed in (more, and drawn); as many more steps.
    controls: ClassVar[tuple[str, ...]] = ("safeinstr", "spard_code", "sft")
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.tau", "τ", 0.01, 10, "log", safer="low"),)
    tau: Annotated[float, Field(ge=0)] = 0.2
    form: Literal["projection", "code"] = "projection"
    slack: Annotated[float, Field(ge=0)] = 0.1
    cap: Annotated[float, Field(gt=0)] = 1.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.03
    batch: Annotated[int, Field(ge=1)] = 4
    relevance: Annotated[float, Field(ge=0)] = 4.0

    def check(self, cell: Settings) -> None:
        """Refuses what the form does not read."""
        super().check(cell)
        for name in ("slack", "clip") if self.form == "projection" else ("cap",):
            if (given := getattr(self, name)) != getattr(Spard, name):
                raise ValueError(f"method.{name}={given}: has no effect on method.form={self.form}; leave it out")

    def safety_rows(self, cell: Settings) -> int:
        """round(share · n), at least one."""
        return max(1, round(self.share * cell.attack.n))

    def callbacks(self, model: Model, ctx: Context) -> list[TrainerCallback]:
        """The projection after every step."""
        from asft.methods.own_pass import OwnPass, batches, examples

        count = self.safety_rows(ctx.cell)
        pool = examples(ctx.data.safety, ctx)
        own_states, user_states = (
            [state for part in batches(rows, ctx, 64, model.device) for state in mean_states(model, part)]
            for rows in (pool, ctx.encoded)
        )
        kernel, quality = similarities(own_states, user_states)
        chosen = diverse(kernel, quality**self.relevance, count)
        given = batches([pool[index] for index in chosen], ctx, self.batch, model.device)

        def after(step: int, optimizer: Any) -> None:
            loss = model(**given[step % len(given)]).loss
            if loss.item() > self.tau + (self.slack if self.form == "code" else 0.0):
                own.acted += 1
                self.project(own, loss, optimizer)

        own = OwnPass(model, after=after)
        return [own]

    def project(self, own: OwnPass, loss: Tensor, optimizer: Any) -> None:
        """Moves the weights, from which ``loss`` comes and is above τ."""
        import torch

        from asft.methods.own_pass import norm

        gradient, excess = own.gradient(loss), loss.item() - self.tau
        size = norm(gradient).item()
        if self.form == "projection":
            own.shift(gradient, -min(excess / size**2, self.cap) * size)
            return
        shrink = min(1.0, self.clip / (size + 1e-6))
        for weight, part in zip(own.weights, gradient, strict=True):
            part = part * shrink
            weight.grad = part * min(excess / (torch.linalg.vector_norm(part).item() + 1e-8), 1.0)
        optimizer.step()


@dataclass(frozen=True)
class SpardCode(Spard):
    """SPARD as its authors' code trains: one more step on safety rows wherever their loss is high, not a projection."""

    name: ClassVar[str] = "spard_code"
    label: ClassVar[str] = "SPARD, more steps"
    controls: ClassVar[tuple[str, ...]] = ("safeinstr", "sft")
    form: Literal["projection", "code"] = "code"


def mean_states(model: Model, batch: Batch) -> Tensor:
    """The mean over tokens of each row's last hidden states, (rows, d), float64, of norm 1."""
    import torch

    from asft.methods.own_pass import evaluating
    from asft.methods.sbr import hidden_states

    with evaluating(model), torch.no_grad():
        mask = batch["attention_mask"]
        states = hidden_states(model, batch).double() * mask[..., None]
    return torch.nn.functional.normalize(states.sum(1), dim=-1)


def similarities(pool: list[Tensor], user: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Cosines within the pool (n×n), and each one's largest to any of the user's, at least 0 (n)."""
    import torch

    own = torch.stack(pool)
    return own @ own.mT, (own @ torch.stack(user).mT).amax(1).clamp(min=0)


def diverse(kernel: Tensor, weights: Tensor, count: int) -> list[int]:
    """Greedily, the rows that make det L of those chosen largest, L = diag(w) K diag(w) + 1e-6 I, in that order.

    The gain of a row is its pivot in a Cholesky factorisation that takes the chosen ones first.
    """
    import torch

    whole = weights[:, None] * kernel * weights
    whole.diagonal().add_(1e-6)
    pivots, factor = whole.diagonal().clone(), whole.new_zeros(count, len(whole))
    chosen: list[int] = []
    for turn in range(count):
        best = int(pivots.argmax())
        factor[turn] = (whole[best] - factor[:turn, best] @ factor[:turn]) / pivots[best].sqrt()
        pivots = pivots - factor[turn].square()
        chosen.append(best)
        pivots[chosen] = -torch.inf
    return chosen
