"""From V = W_aligned − W_base to the operator that :mod:`asft.anchor.spec` names."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from asft.anchor.forms import Factor, Form, Gram, Identity, LowRank
from asft.anchor.spec import AnchorSpec


def build_form(v: Tensor, spec: AnchorSpec, name: str) -> tuple[Form, float]:
    """The form of a module with V (o×i, not zero), and the bound it guarantees on ‖Ĉ − Ĉ_k‖₂ (0 for exact forms).

    The module's name and ``spec.seed`` seed the random directions.
    """
    if spec.variant == "identity":
        return Identity(), 0.0
    if spec.variant == "random":
        v = _randomly_turned(v, spec.seed, name)
    if spec.needs_rank:
        assert spec.rank is not None
        return _truncated(v, spec.rank, spec)
    dense = spec.form == "gram" or (spec.form == "auto" and v.shape[0] <= v.shape[1])
    return (Gram if dense else Factor).of(v, spec.side), 0.0


def _truncated(v: Tensor, rank: int, spec: AnchorSpec) -> tuple[LowRank, float]:
    """The k leading directions; leaving out the rest changes Ĉ by its next eigenvalue in spectral norm."""
    u, s = left_spectrum(v)
    kept, bound = u[:, :rank].contiguous(), float(s[rank])
    if spec.variant == "projector":
        return LowRank(kept, torch.ones_like(s[:rank]), spec.side), 0.0
    return LowRank(kept, s[:rank].clone(), spec.side), bound


def left_spectrum(v: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors of V (o×m, m = min(o, i)) and the eigenvalues σ²/‖V‖ of Ĉ (m), descending."""
    norm = torch.linalg.matrix_norm(v)
    if v.shape[0] <= v.shape[1]:
        s, u = torch.linalg.eigh(v @ v.mT)
    else:
        q, core = torch.linalg.qr(v)
        s, u = torch.linalg.eigh(core @ core.mT)
        u = q @ u
    return u.flip(-1), s.flip(-1).clamp_min(0) / norm


def _randomly_turned(v: Tensor, seed: int, name: str) -> Tensor:
    """Q diag(σ): the singular values of V, hence the spectrum of Ĉ, with left directions drawn uniformly."""
    number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) >> 1
    generator = torch.Generator().manual_seed(number)
    _, s = left_spectrum(v)
    gaussian = torch.randn(v.shape[0], len(s), generator=generator, dtype=torch.float64).to(v)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal().sign()  # makes the orthonormal factor Haar-distributed
    return q * (s * torch.linalg.matrix_norm(v)).sqrt()


def update_spectrum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors (o×k) and the k non-zero singular values of BA, from A (r×i) and B (o×r) alone."""
    dtype = torch.promote_types(b.dtype, torch.float32)
    q_b, r_b = torch.linalg.qr(b.to(dtype))
    r_a = torch.linalg.qr(a.to(dtype).mT, mode="r").R
    u, sigma, _ = torch.linalg.svd(r_b @ r_a.mT)
    rank = int((sigma > sigma.amax() * len(sigma) * torch.finfo(dtype).eps).sum())
    return q_b @ u[:, :rank], sigma[:rank]
