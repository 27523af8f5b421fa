"""A method's callback on a float64 adapter, called by hand."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch
from anchor_pairs import with_lora
from torch import Tensor
from transformers import TrainerControl

from asft.cells.job import Job
from asft.methods.own_pass import examples
from asft.pipeline.run import _Run


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


class Tuned:
    """A float64 LoRA on one side of the random pair, B = 0, and a method's callback on it."""

    def __init__(self, job: Job, rows: int = 12) -> None:
        self.run, self.method = _Run(job), job.cell.method
        context = self.run.context
        data = dataclasses.replace(context.data, safety=context.data.safety[:50])
        self.ctx = dataclasses.replace(context, data=data, encoded=examples(self.run.drawn[:rows], context))
        torch.manual_seed(0)
        model = self.run.pair.load("aligned", self.run.device).double()
        self.model: Any = with_lora(model, ["q_proj", "v_proj"], rank=2).double().train()
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.move(0.0)
        self.callback: Any = next(iter(self.method.callbacks(self.model, self.ctx)), None)

    def move(self, size: float) -> None:
        """Gives every B entries of that size."""
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(size * torch.randn(weight.shape, generator=random, dtype=torch.float64))

    def gradients(self, step: int = 0, task: float = 1.0) -> tuple[list[Tensor], list[Tensor]]:
        """The task's gradient, drawn at random, and what the callback makes of it."""
        random = torch.Generator().manual_seed(step)
        before = [task * torch.randn(w.shape, generator=random, dtype=torch.float64) for w in self.weights]
        for weight, gradient in zip(self.weights, before, strict=True):
            weight.grad = gradient.clone()
        drawn = torch.get_rng_state()
        self.callback.on_pre_optimizer_step(None, SimpleNamespace(global_step=step, max_steps=9), TrainerControl())
        assert torch.equal(torch.get_rng_state(), drawn)
        assert self.model.training
        return before, [weight.grad for weight in self.weights if weight.grad is not None]

    def nearby(self, batch: Any, distance: float) -> tuple[Tensor, Tensor]:
        """∇ of a batch's loss at the weights, and at distance · g/(‖g‖ + 1e-7) from them; by itself."""
        self.model.eval()
        here = torch.autograd.grad(self.model(**batch).loss, self.weights)
        kept = [weight.detach().clone() for weight in self.weights]
        with torch.no_grad():
            for weight, part in zip(self.weights, here, strict=True):
                weight.add_(distance * part / (flat(list(here)).norm() + 1e-7))
        there = torch.autograd.grad(self.model(**batch).loss, self.weights)
        with torch.no_grad():
            for weight, old in zip(self.weights, kept, strict=True):
                weight.copy_(old)
        self.model.train()
        return flat(list(here)), flat(list(there))
