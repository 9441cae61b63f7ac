"""The published way to search a generator's latents: one image at a time, and a read of every loss.

The loop of GGL's code (arXiv 2203.15696) in our own words, for comparison: a round of 50 latents is asked
before any is told; of each the generator makes one image, `torch.autograd.grad` the victim's whole gradient,
and `.item()` hands the loss to the search. Nothing is batched, as nothing is there. The prior is ours, whose
constants are folded: the library's own BigGAN would make the loop slower.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ggl.attacks.latents import load_latents
from ggl.generators import Prior
from ggl.gradients import Gradients
from ggl.optimizers import load_strategy

__all__ = ["Course", "Round", "evaluation", "search"]


@dataclass(frozen=True)
class Round:
    """What had been found after a round: evaluations and seconds so far, and the least loss."""

    evaluations: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Course:
    """What became of a search: its rounds, and the latents (d,) of the least loss as the prior takes them."""

    rounds: list[Round]
    latents: Float[Tensor, " d"]

    @property
    def evaluations(self) -> int:
        """Return the objective evaluations of the whole search."""
        return self.rounds[-1].evaluations

    @property
    def seconds(self) -> float:
        """Return the wall time of the whole search."""
        return self.rounds[-1].seconds

    @property
    def loss(self) -> float:
        """Return the least loss."""
        return self.rounds[-1].loss


def search(
    prior: Prior,
    victim: nn.Module,
    shared: Gradients,
    label: Int[Tensor, " 1"],
    *,
    budget: int,
    seed: int,
    strategy: str = "nevergrad-cma-ggl",
    latents: str = "free",
    seconds: float = float("inf"),
) -> Course:
    """Search one image's latents and return what became of it; by default as the code does for ImageNet.

    Args:
        prior: makes the images; on the victim's device.
        victim: in the mode that it was observed in; it is left as it was.
        shared: the observed gradient, of every parameter of the victim that requires one.
        label: the image's class.
        budget: objective evaluations; whole rounds, and at least one.
        seed: of the strategy.
        strategy: as `ggl.optimizers.load_strategy` reads it. `nevergrad-cma-ggl` starts at uniform [0, 1)
            and gives the tanh of what Nevergrad asks; the code's for faces is `nevergrad-cma-ggl:tanh=0`
            with the latents `kld:0.1` (and starts at 0, which is not done here).
        latents: a rule as `ggl.attacks.latents.load_latents` reads it. Its penalty is added to the *mean*
            of the parameters' squared distances, an n-th of the distance "l2" of n parameters.
        seconds: no further round begins after so many.

    Raises:
        InputError: a strategy that cannot search so, or options out of range.
    """
    asking, other = (
        load_strategy(strategy, latent_dim=prior.latent_dim, budget=budget, seed=seed) for _ in range(2)
    )
    evaluate = evaluation(prior, victim, shared, label, latents)
    evaluate(other.ask()[0])  # imports, and what a device's libraries do once, are no part of the loop
    place = load_latents(latents).place
    rounds: list[Round] = []
    best, found, done, started = float("inf"), torch.zeros(prior.latent_dim), 0, time.perf_counter()
    while not rounds or (done + asking.batch_size <= budget and rounds[-1].seconds < seconds):
        asked = asking.ask()
        losses = [evaluate(z) for z in asked]
        asking.tell(asked, torch.tensor(losses, dtype=torch.float64))
        done += len(asked)
        for z, loss in zip(asked, losses, strict=True):
            if loss < best:
                best, found = loss, z
        rounds.append(Round(done, time.perf_counter() - started, best))
    return Course(rounds, place(found.float()[None])[0])


def evaluation(
    prior: Prior, victim: nn.Module, shared: Gradients, label: Int[Tensor, " 1"], latents: str = "free"
) -> Callable[[Float[Tensor, " d"]], float]:
    """Return the objective: from searched coordinates (d,) to the loss, read on the CPU."""
    rule = load_latents(latents)
    parameters = [p for p in victim.parameters() if p.requires_grad]
    targets = list(shared.values())
    device = targets[0].device
    label = label.to(device)

    def evaluate(z: Tensor) -> float:
        with torch.no_grad():
            placed = rule.place(z.to(device, torch.float32)[None])
            image = prior.decode(placed, label)
        loss = cross_entropy(victim(image), label)
        gradient = torch.autograd.grad(loss, parameters)
        squares = [(g - t).square().sum() for g, t in zip(gradient, targets, strict=True)]
        mean = torch.stack(squares).mean()
        return float((mean + rule.penalty(prior, placed, image)[0]).item())

    return evaluate
