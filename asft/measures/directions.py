"""Directions in weight space, normalised as in llm-landscape (Peng et al. 2024, arXiv:2405.17374).

A direction maps parameter names to tensors of the parameters' shapes; a parameter it does not name stays put.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from asft.anchor.checkpoint import Checkpoint
from asft.anchor.names import is_target
from asft.anchor.saved_adapter import CONFIG_NAME, read_adapter

Direction = dict[str, Tensor]
Weights = Mapping[str, Tensor]
_PARALLEL = 1e-5  # what is left of a tensor relative to it, below which it is rounding


def weights_of(model: PreTrainedModel, targets: Sequence[str] | None = None) -> Direction:
    """A model's parameters by name: all of them, or the 2-D weights of its target modules."""
    return {
        name: weight.detach()
        for name, weight in model.named_parameters()
        if targets is None or (weight.ndim == 2 and is_target(name.removesuffix(".weight"), targets))
    }


def random_direction(weights: Weights, seed: int) -> Direction:
    """Independent standard Gaussians of the weights' shapes; one seed gives the same direction again."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}


def difference(weights: Weights, start: Path, end: Path) -> Direction:
    """``end − start`` of the tensors that ``weights`` names, float32, whatever format a model of them is loaded in.

    Both are read as they are stored: a side rounded to bfloat16 would differ from the other by its rounding, too.
    Tensors of another shape in either (a larger vocabulary) are left out; ValueError when a checkpoint lacks one.
    """
    sides, direction = (Checkpoint(start, "checkpoint"), Checkpoint(end, "checkpoint")), {}
    for name, weight in weights.items():
        if all(side.shape(name) == tuple(weight.shape) for side in sides):
            here, there = (side.tensor(name).to(weight.device, torch.float32) for side in sides)
            direction[name] = there - here
    return direction


def adapter_update(weights: Weights, adapter: Path) -> Direction:
    """The change s·BA that a LoRA adapter on disk makes to each weight, float32.

    ValueError when the adapter is no plain LoRA, or adapts a weight that ``weights`` has not.
    """
    saved, direction = read_adapter(adapter), {}
    for module, keys in saved.keys.items():
        name = f"{module}.weight"
        if name not in weights:
            raise ValueError(f"adapter={str(adapter)!r} adapts {module!r}, which is not among the model's weights here")
        update = saved.scaling(module) * (saved.tensors[keys.b].float() @ saved.tensors[keys.a].float())
        fits = update.T if saved.config.get("fan_in_fan_out") else update  # Conv1D (GPT-2) stores its weight as i×o
        if fits.shape != weights[name].shape:
            raise ValueError(f"adapter={str(adapter)!r}: {module!r} has shape {tuple(update.shape)} there")
        direction[name] = fits.to(weights[name].device)
    return direction


def from_folder(weights: Weights, folder: Path, aligned: Path) -> Direction:
    """A user's own direction: an adapter's update, or the way from the aligned checkpoint to another."""
    if (folder / CONFIG_NAME).is_file():
        return adapter_update(weights, folder)
    return difference(weights, aligned, folder)


def layer_normalised(direction: Direction, weights: Weights) -> Direction:
    """Each tensor scaled to the norm of the weight it moves; vectors set aside.

    One unit along the result therefore changes every weight matrix by its own norm. Weights of normalisation layers
    and biases stay put, whatever a model calls them, as in filter normalisation (Li et al. 2018, arXiv:1712.09913);
    llm-landscape leaves out what has ``norm`` in its name, which is the same for a Llama.
    """
    scaled = {}
    for name, tensor in direction.items():
        norm = torch.linalg.vector_norm(tensor.double())
        if tensor.ndim < 2 or norm == 0:
            continue
        scaled[name] = tensor * (torch.linalg.vector_norm(weights[name].double()) / norm).to(tensor.dtype)
    return scaled


def orthogonalised(direction: Direction, to: Direction) -> Direction:
    """``direction`` without its part along ``to``, tensor by tensor (so the whole is orthogonal, too).

    A tensor of which nothing but rounding is left stays out: scaled to its weight's norm, that would be a direction.
    ValueError when none is left, as for two equal directions.
    """
    result = {}
    for name, tensor in direction.items():
        other, left = to[name].double() if name in to else None, tensor.double()
        if other is not None and other.any():
            left = left - (left * other).sum() / (other * other).sum() * other
        if _inner(left, left) > _PARALLEL**2 * _inner(tensor, tensor):
            result[name] = left.to(tensor.dtype)
    if not result:
        raise ValueError("measure.orthogonal=true: y runs along x, so nothing of it is left; choose another measure.y")
    return result


def cosine(first: Direction, second: Direction) -> float:
    """Cosine of the two directions as whole vectors, in float64; 0 where one of them is zero."""
    inner = sum(_inner(first[name], second[name]) for name in first.keys() & second.keys())
    norms = math.sqrt(_squared(first) * _squared(second))
    return inner / norms if norms else 0.0


def _inner(first: Tensor, second: Tensor) -> float:
    return float((first.double() * second.double()).sum())


def _squared(direction: Direction) -> float:
    return sum(_inner(tensor, tensor) for tensor in direction.values())


class Perturbed:
    """A model that can be put at any point of the space that some directions span.

    The weights that the directions name are copied once. A point is always reached from that copy, so that
    rounding does not add up over a grid, and :meth:`move` with zeros gives the model back bit for bit.
    """

    def __init__(self, model: PreTrainedModel, directions: Sequence[Direction]) -> None:
        self.directions = tuple(directions)
        named = dict.fromkeys(name for direction in directions for name in direction)
        self._parameters = {name: model.get_parameter(name) for name in named}
        self._pristine = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def move(self, *alphas: float) -> None:
        """Puts the model at θ + Σ α_k d_k, one coefficient per direction; summed in float32."""
        for name, parameter in self._parameters.items():
            point = self._pristine[name].float()
            for alpha, direction in zip(alphas, self.directions, strict=True):
                if alpha and name in direction:
                    point = point + alpha * direction[name]
            parameter.copy_(point)
