"""How fast a prior draws, here and now."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ggl.generators import Prior

__all__ = ["decoding_rates"]

MOST, SECONDS = 64, 1.0
"""Latents decoded at once, at most, and about how long one measurement may take."""


def decoding_rates(prior: Prior, device: torch.device) -> dict[str, float]:
    """Return the images a second of "forward" and of "forward and backward" passes of a prior on `device`.

    One image shows how many fit into a second, up to 64; these are decoded once more. A figure to choose by:
    `benchmarks/speed/priors.py` measures with repeats.
    """
    return {
        "forward": _rate(lambda z, labels: _forward(prior, z, labels), prior, device),
        "forward and backward": _rate(lambda z, labels: _backward(prior, z, labels), prior, device),
    }


@torch.no_grad()
def _forward(prior: Prior, z: Tensor, labels: Tensor | None) -> float:
    return float(prior.decode(z, labels).sum())


def _backward(prior: Prior, z: Tensor, labels: Tensor | None) -> float:
    latents = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.decode(latents, labels).sum(), latents)
    return float(gradient.sum())


def _rate(work: Callable[[Tensor, Tensor | None], float], prior: Prior, device: torch.device) -> float:
    """Return the rate of `work`; its result is a number, so that a device has finished when it is there."""

    def seconds(count: int) -> float:
        z = prior.sample(count, torch.Generator().manual_seed(0)).to(device)
        labels = None if prior.num_classes is None else torch.zeros(count, dtype=torch.long, device=device)
        started = time.perf_counter()
        work(z, labels)
        return max(time.perf_counter() - started, 1e-9)

    seconds(1)
    count = int(min(MOST, max(1, SECONDS / seconds(1))))
    return count / seconds(count)
