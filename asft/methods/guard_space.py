"""GuardSpace: trains what harmful prompts use least of each weight, outside what they span (arXiv:2510.14301).

Per adapted module, with C and N the second moments of its inputs, a mean over the prompts of two harmful sets, as raw
text, each prompt's inputs divided by their largest absolute value (by the authors: by their maximum):

    C̃ = C + δ·mean(diag C)·I,  δ doubled until ‖C̃C̃⁻¹ − I‖ < 0.05;  UΣVᵀ = svd(W C̃),  V ← C̃⁻¹V
    B₀ = U_r√Σ_r,  A₀ = √Σ_r V_rᵀ  of the r smallest components;  P = QQᵀ, Q the null space of N

W − B₀A₀P is frozen, and (W − B₀A₀P)x + BAPx is trained from (B₀, A₀), so that the start is the aligned model but for
LoRA's dropout, which falls on Px: what N spans is not seen at any step. It is
saved as the adapter s·[B, −B₀][A; A₀]P of rank 2r on the unedited W.

``projector=none`` trains (W − B₀A₀P)x + BAx, as the authors' shipped code does: the class that reloads their model for
training has no projector, so that the start is not the aligned model. ``random`` projects on as many random directions.
The authors take N from RealToxicityPrompts, whose place the second half of the defender's rows takes here; theirs are
520 and 520 prompts, rank 128, all linear modules. Where N has no null space nothing could be learned, which is an
error: all hangs on the tolerance and the number of prompts, so the manifest says each module's nullity.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.methods.base import Context, Finished, Method, Strength

if TYPE_CHECKING:
    from torch import Tensor

    from asft.config import Settings
    from asft.methods.base import Model


@dataclass(frozen=True)
class GuardSpace(Method):
    """Plain SFT of an adapter that cannot see harmful prompts.

    Attributes:
        harmful: prompts, the first half for C and the second for N.
        damping: δ.
        tolerance: eigenvalues of N up to this share of the largest count as 0; 1e-6 in the authors' code.
        projector: see the module's docstring.
        batch: prompts in one pass; changes nothing but rounding.
    """

    name: ClassVar[str] = "guard_space"
    code: ClassVar[int] = 2
    label: ClassVar[str] = "GuardSpace"
    needs_training: ClassVar[str] = "lora"
    controls: ClassVar[tuple[str, ...]] = ("guard_space_random", "guard_space_none", "sft")
    strengths: ClassVar[tuple[Strength, ...]] = (Strength("method.tolerance", "tol", 1e-8, 1e-2, "log", safer="low"),)
    defender_field: ClassVar[str] = "harmful"
    harmful: Annotated[int, Field(ge=2)] = 1040
    damping: Annotated[float, Field(gt=0)] = 0.01
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    projector: Literal["null", "random", "none"] = "null"
    batch: Annotated[int, Field(ge=1)] = 8

    def check(self, cell: Settings) -> None:
        """Refuses weights that cannot be edited."""
        super().check(cell)
        if getattr(cell.model, "quantization", None):
            raise ValueError(f"method={self.name}: edits the weights under an adapter; use model.quantization=null")

    def check_modules(self, modules: Mapping[str, tuple[int, int]], cell: Settings) -> None:
        """Refuses a rank that a weight does not have."""
        for name, shape in modules.items():
            if cell.training.rank > min(shape):
                raise ValueError(
                    f"training.rank={cell.training.rank}: {name} has {min(shape)} components; lower it for "
                    f"method={self.name}"
                )

    def prepare(self, model: Model, ctx: Context) -> None:
        """The factors' start, the frozen weights' edit and the projector."""
        import torch

        from asft.anchor.binding import lora_factors
        from asft.data.rows import user_text
        from asft.data.templates import IGNORED, Encoded
        from asft.methods.own_pass import batches, in_parts, input_sums

        texts = ctx.pair.tokenizer()([user_text(row) for row in ctx.defender])["input_ids"]
        raw = [Encoded(ids, [IGNORED] * len(ids)) for ids in texts]
        factors = {factor.name: factor for factor in lora_factors(model)}
        layers = {name: model.get_submodule(f"base_model.model.{name}") for name in factors}
        made = {}
        for part in in_parts(layers):
            harm, null = (
                input_sums(model, part, batches(rows, ctx, self.batch, model.device), moments)
                for rows in (raw[: len(raw) // 2], raw[len(raw) // 2 :])
            )
            for name in part:
                harm[name] /= len(raw) // 2  # sums would make the factors' sizes, and so their steps, hang on the count
                null[name] /= len(raw) - len(raw) // 2
                weight, rank = layers[name].base_layer.weight.detach().double(), len(factors[name].a)
                made[name] = (*smallest_part(weight, harm[name], rank, self.damping), self.basis(name, null[name], ctx))
        for name, (b, a, basis) in made.items():
            factor, frozen, kept = factors[name], layers[name].base_layer.weight, basis.to(factors[name].a)
            with torch.no_grad():
                frozen.sub_((b @ (a @ basis) @ basis.mT).to(frozen))
                factor.b.copy_(b * factor.scaling**-0.5)
                factor.a.copy_(a * factor.scaling**-0.5)
            ctx.kept[name] = (factor.a.detach().clone(), factor.b.detach().clone(), kept)
            if self.projector != "none":
                drop = layers[name].lora_dropout[model.active_adapter]
                drop.register_forward_pre_hook(lambda module, given, kept=kept: (given[0] @ kept @ kept.mT,))

    def basis(self, name: str, null: Tensor, ctx: Context) -> Tensor:
        """An orthonormal basis (i×k) of what module ``name`` may be trained on, given N (i×i)."""
        import torch

        basis = null_space(null, self.tolerance)
        if not basis.shape[1]:
            raise ValueError(
                f"method={self.name}: the inputs of {name} on {len(ctx.defender) // 2} prompts leave no null space, so "
                "nothing could be learned there. Lower method.harmful or raise method.tolerance."
            )
        if self.projector == "random":
            seed = zlib.crc32(f"{name}/{ctx.cell.seed}".encode())
            drawn = torch.randn(basis.shape, generator=torch.Generator().manual_seed(seed), dtype=basis.dtype)
            basis = torch.linalg.qr(drawn.to(basis.device))[0]
        return basis

    def finish(self, model: Model, ctx: Context) -> Finished:
        """What was trained, as an adapter of twice the rank to the unedited weights."""
        import torch

        from asft.anchor.binding import lora_factors
        from asft.methods.adapters import with_factors

        made = {}
        for factor in lora_factors(model):
            start_a, start_b, basis = ctx.kept[factor.name]
            a = factor.a if self.projector == "none" else factor.a @ basis @ basis.mT
            made[factor.name] = (torch.cat([a, start_a @ basis @ basis.mT]), torch.cat([factor.b, -start_b], dim=1))
        nullity = {name: kept[2].shape[1] for name, kept in ctx.kept.items()}
        return Finished({self.name: {"nullity": nullity}}, with_factors(model, made))


@dataclass(frozen=True)
class GuardSpaceRandom(GuardSpace):
    """GuardSpace with a random projector of the same rank."""

    name: ClassVar[str] = "guard_space_random"
    label: ClassVar[str] = "GuardSpace, random projector"
    controls: ClassVar[tuple[str, ...]] = ("sft",)
    projector: Literal["null", "random", "none"] = "random"


@dataclass(frozen=True)
class GuardSpaceNone(GuardSpace):
    """GuardSpace as its shipped code trains, without the projector."""

    name: ClassVar[str] = "guard_space_none"
    label: ClassVar[str] = "GuardSpace, no projector"
    controls: ClassVar[tuple[str, ...]] = ("sft",)
    projector: Literal["null", "random", "none"] = "none"


def moments(inputs: Tensor) -> Tensor:
    """Σ xxᵀ (i×i) over inputs (rows, length, i), each row's divided by their largest absolute value."""
    scaled = inputs / inputs.abs().amax((1, 2), keepdim=True)
    flat = scaled.flatten(0, 1)
    return flat.mT @ flat


def smallest_part(weight: Tensor, second: Tensor, rank: int, damping: float) -> tuple[Tensor, Tensor]:
    """B₀ (o×r) and A₀ (r×i) of a weight (o×i) and C (i×i)."""
    import torch

    eye, mean = torch.eye(len(second), dtype=second.dtype, device=second.device), second.diagonal().mean()
    loaded = second + damping * mean * eye
    while torch.linalg.matrix_norm(loaded @ torch.linalg.inv(loaded) - eye) >= 0.05:
        damping *= 2
        loaded = second + damping * mean * eye
    u, sizes, vt = torch.linalg.svd(weight @ loaded, full_matrices=False)
    assert rank <= len(sizes), "check_modules saw to it"
    root = sizes[-rank:].sqrt()
    return u[:, -rank:] * root, root[:, None] * torch.linalg.solve(loaded, vt[-rank:].mT).mT


def null_space(second: Tensor, tolerance: float) -> Tensor:
    """An orthonormal basis (i×k) of the eigenvectors of N (i×i) whose eigenvalues count as 0."""
    import torch

    sizes, vectors = torch.linalg.eigh((second + second.mT) / 2)
    return vectors[:, sizes <= max(1e-8, tolerance * sizes[-1].item())]
