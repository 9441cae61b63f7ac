"""From a latent on by the generator's weights, GIAS's way: a contrast, which needs gradients."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ggl.attacks.course import SearchResult
from ggl.attacks.latents import LatentRule
from ggl.attacks.objectives import Objective
from ggl.attacks.search import Progress
from ggl.base.errors import InputError
from ggl.generators import Prior

__all__ = ["tuned", "weights_of"]

LARGEST, COPIES = 2**30, 4
"""Bytes of weights that are tuned at once, and an image's: its own, their gradient, two moments of that."""


def weights_of(prior: Prior) -> dict[str, Tensor]:
    """Return what is tuned, by name: a prior's parameters, or, where it keeps none, its buffers.

    Raises:
        InputError: it has neither.
    """
    named: list[tuple[str, Tensor]] = [*prior.named_parameters()] or [*prior.named_buffers()]
    found = {name: tensor for name, tensor in named if tensor.is_floating_point()}
    if not found:
        raise InputError(f"prior {prior.name}: expected weights to tune, found none; leave tune= out")
    return found


def tuned(
    prior: Prior,
    found: Sequence[SearchResult],
    objective: Objective,
    latents: LatentRule,
    rate: float,
    steps: int,
    progress: Progress | None = None,
) -> list[SearchResult]:
    """Return what every search found, with its images after its generator was tuned.

    Of every image a copy of the weights is fitted by Adam, the latent kept, to what the search minimized
    (GIAS, arXiv 2110.14962: after the search over latents comes that over the generator's parameters); the
    rate falls to zero by a cosine. A step is an evaluation with a backward pass. The prior itself stays as
    it is. The best step counts, the first being the latent found.

    Raises:
        InputError: the prior has no weights, or its images no gradient in them.
    """
    size = sum(weight.numel() * weight.element_size() for weight in weights_of(prior).values())
    width = max(1, LARGEST // (COPIES * size * len(found[0].labels)))
    done, planned = sum(result.evaluations for result in found), steps * len(found)
    results: list[SearchResult] = []
    for k in range(0, len(found), width):
        part = _Tuning(prior, range(k, k + width), found[k : k + width], rate, steps)

        def tell(step: int, loss: float, before: int = done + k * steps, size: int = len(part.found)) -> None:
            if progress is not None:
                progress(before + step * size, done + planned, loss)

        results += part.run(objective, latents, tell)
    return results


class _Tuning:
    """The tuning of a few searches' generators side by side."""

    def __init__(
        self, prior: Prior, chosen: Sequence[int], found: Sequence[SearchResult], rate: float, steps: int
    ) -> None:
        weights = weights_of(prior)
        device = next(iter(weights.values())).device
        self.decoder, self.found, self.steps = _Decoder(prior), found, steps
        self.chosen = list(chosen)[: len(found)]
        self.z = torch.stack([result.latents for result in found]).to(device)
        self.labels = torch.stack([result.labels for result in found]).to(device)
        self.copies = [
            {f"prior.{name}": weight.detach().clone().requires_grad_() for name, weight in weights.items()}
            for _ in range(self.labels.numel())
        ]
        self.leaves = [weight for copy in self.copies for weight in copy.values()]
        self.optimizer = torch.optim.Adam(self.leaves, rate)
        self.falling = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, steps))

    def run(
        self, objective: Objective, latents: LatentRule, tell: Callable[[int, float], None]
    ) -> list[SearchResult]:
        """Take every step, telling its number and the mean best loss; return the best of each search."""
        best = torch.tensor([result.loss for result in self.found], dtype=torch.float64)
        images = torch.stack([result.images for result in self.found])
        courses = [list(result.history) for result in self.found]
        for step in range(self.steps):
            made = self._decode()
            penalty = latents.penalty(self.decoder.prior, self.z.flatten(0, 1), made.flatten(0, 1))
            losses = objective(made, self.labels, self.chosen, [1] * len(self.found))
            losses = losses + penalty.view(self.labels.shape).mean(1)
            told = losses.detach().to("cpu", torch.float64)
            images[told < best] = made.detach().cpu()[told < best]
            best = torch.where(told < best, told, best)
            for course, loss in zip(courses, best.tolist(), strict=True):
                course.append((course[-1][0] + 1, loss))
            self._step(losses.sum())
            tell(step + 1, float(best.mean()))
        return [
            replace(
                result,
                images=images[k],
                loss=float(best[k]),
                history=courses[k],
                evaluations=result.evaluations + self.steps,
                backward_passes=result.backward_passes + self.steps,
            )
            for k, result in enumerate(self.found)
        ]

    def _decode(self) -> Tensor:
        """Return the images (searches, b, c, h, w), each by weights of its own."""
        rows = zip(self.copies, self.z.flatten(0, 1).split(1), self.labels.flatten().split(1), strict=True)
        made = torch.cat([functional_call(self.decoder, w, (z, label)) for w, z, label in rows])
        if not made.requires_grad:
            raise InputError(
                f"prior {self.decoder.prior.name}: expected images with a gradient in its weights, found "
                f"none; leave tune= out"
            )
        images: Tensor = made.unflatten(0, self.labels.shape)
        return images

    def _step(self, loss: Tensor) -> None:
        """Step against the gradient in what is tuned, and leave no other gradient behind."""
        gradients = torch.autograd.grad(loss, self.leaves, allow_unused=True)
        for weight, gradient in zip(self.leaves, gradients, strict=True):
            weight.grad = None if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)
        self.optimizer.step()
        self.falling.step()


class _Decoder(nn.Module):
    """A prior's `decode` as a module's call, so that it can be made with other weights."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.prior.decode(z, labels)
