"""Moving a model along directions: θ + Σ α_k d_k, every point from a pristine copy of θ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from asft.measures.directions import Direction


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
