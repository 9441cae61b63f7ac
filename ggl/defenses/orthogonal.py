"""A random gradient, each parameter's orthogonal to the true one: a promise that an attacker can test."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.defenses.client import Client
from ggl.gradients import Gradients, View
from ggl.gradients.sampled import take_penalties

__all__ = ["Orthogonal", "draw_orthogonal", "loss_after_step"]

LossAfterStep: TypeAlias = Callable[[Gradients], float]


class Orthogonal(Defense):
    """Shares a random gradient orthogonal to the true one, the best of `trials`, per parameter of its norm.

    CENSOR (Zhang et al., NDSS 2025, arXiv 2501.15718): of `trials` draws, the one after whose step of
    `learning_rate` the loss of the client's batch is least. To first order no draw changes that loss, so
    they differ by curvature alone, and losses are compared in float64. A parameter whose gradient is zero,
    or that is a single number, which nothing is orthogonal to, is shared as zero.

    CENSOR's code differs in two ways that let the true gradient through: it subtracts (r · g / ‖g‖) g,
    which is orthogonal to g only where ‖g‖ = 1, and it shares g itself if no draw lowers the loss.

    The attackers "adaptive" and "informed" look for images whose gradient is orthogonal to the shared one.
    That is one equation a parameter, far fewer than pixels: a sharp test of given images, a weak guide to
    a search.

    Args:
        trials: draws to choose from, at least 1.
        learning_rate: of the step by which they are judged, at least 0.
    """

    def __init__(self, trials: int = 20, *, learning_rate: float = 1e-4) -> None:
        if trials < 1:
            raise InputError(f"orthogonal: expected at least 1 trial, found {trials}")
        if not (learning_rate >= 0 and math.isfinite(learning_rate)):
            raise InputError(f"orthogonal: expected a learning rate of at least 0, found {learning_rate:g}")
        self.trials, self.learning_rate = trials, learning_rate
        self.name = f"orthogonal:{trials},learning_rate={number_text(learning_rate)}"

    def share(self, client: Client, generator: torch.Generator) -> Gradients:
        gradients = client.gradient()
        loss = loss_after_step(client, self.learning_rate)
        return min((draw_orthogonal(gradients, generator) for _ in range(self.trials)), key=loss)

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        return View(observed, distance="orthogonal")


def draw_orthogonal(gradients: Gradients, generator: torch.Generator) -> Gradients:
    """Return a random gradient, each parameter's uniform among those orthogonal to it and of its norm."""
    return {name: _orthogonal(g, generator) for name, g in gradients.items()}


def loss_after_step(client: Client, learning_rate: float) -> LossAfterStep:
    """Return the function from a gradient to the client's loss after a step along it, in float64.

    It steps a copy of the model; a loss that is not a number counts as infinite.
    """
    model = client.copied_model().double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images = client.images.to(client.oracle.device, torch.float64)
    labels = client.labels.to(client.oracle.device)

    @torch.no_grad()
    def loss(gradients: Gradients) -> float:
        stepped = {name: parameters[name] - learning_rate * g.double() for name, g in gradients.items()}
        logits = functional_call(model, stepped, (images,))
        found = take_penalties(model, client.oracle.loss(logits, labels)).mean().item()
        return math.inf if math.isnan(found) else found

    return loss


def _orthogonal(g: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random tensor of the norm of `g`, orthogonal to it to float64 before it is rounded."""
    drawn = torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g.device).flatten()
    scale = g.abs().max().double() if g.numel() else torch.zeros(())
    if g.numel() < 2 or not scale:
        return torch.zeros_like(g)
    scaled = g.double().flatten() / scale
    unit = scaled / scaled.norm()
    for _ in range(2):
        drawn = drawn - (drawn @ unit) * unit
    shared: Tensor = drawn / drawn.norm() * scaled.norm() * scale
    return shared.view_as(g).to(g.dtype)
