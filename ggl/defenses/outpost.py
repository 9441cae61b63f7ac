"""OUTPOST: pruning and noise where the Fisher information is high, ever more seldom as training goes on."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.defenses.client import Client
from ggl.defenses.pruning import mask_of_zeros, smallest_zeroed
from ggl.gradients import Gradients, View

__all__ = ["Outpost", "empirical_fisher", "largest_of_all", "weight_risks"]

DEFAULTS = {"beta": 0.125, "fisher": 0.4, "pruned": 0.8, "noise": 0.8}


class Outpost(Defense):
    """Prunes every parameter, then adds noise by the weights' spread; with probability 1/(1 + beta · round).

    Wang et al., More than Enough is Too Much: Adaptive Defenses against Gradient Leakage in Production
    Federated Learning (INFOCOM 2023), in the order of its code (TL-System/plato, examples of gradient
    leakage, 2023-11). Each parameter first loses exactly ⌊pruned · size⌋ of its smallest magnitudes. Noise
    N(0, (noise · risk)²) then goes onto the ⌊fisher · size⌋ coordinates of the whole gradient with the most
    Fisher information, pruned ones too. In a round that is not perturbed the gradient goes out as it is.

    The Fisher information is the mean of the examples' squared gradients, as the paper means it; the code
    squares the batch's gradient and takes its mean over the output units. Its iteration, a local epoch
    times a batch number, is the round of training here.

    Args:
        beta: how fast the probability falls with the round, at least 0.
        fisher: share of coordinates that get noise, from 0 to 1.
        pruned: share of each parameter that is zeroed, from 0 to below 1.
        noise: standard deviation of the noise by unit of risk, at least 0.
    """

    def __init__(
        self, *, beta: float = 0.125, fisher: float = 0.4, pruned: float = 0.8, noise: float = 0.8
    ) -> None:
        self.beta, self.noise = _positive("beta", beta), _positive("noise", noise)
        self.fisher, self.pruned = _share("fisher", fisher), _share("pruned", pruned)
        if pruned == 1:
            raise InputError("outpost: expected pruned below 1, found 1; that would share no gradient")
        options = {"beta": beta, "fisher": fisher, "pruned": pruned, "noise": noise}
        changed = [f"{key}={number_text(value)}" for key, value in options.items() if value != DEFAULTS[key]]
        self.name = ":".join(["outpost", *([",".join(changed)] if changed else [])])

    def probability(self, training_round: int) -> float:
        """Return the probability that a round's gradient is perturbed."""
        return 1 / (1 + self.beta * training_round)

    def share(self, client: Client, generator: torch.Generator) -> Gradients:
        gradients = client.gradient()
        coin = torch.rand((), generator=generator, dtype=torch.float64).item()
        if coin >= self.probability(client.round):
            return {name: g.clone() for name, g in gradients.items()}
        noisy = largest_of_all(empirical_fisher(client, gradients), self.fisher)
        risks = weight_risks(client.model)
        return {
            name: smallest_zeroed(g.flatten(), self.pruned).view_as(g)
            + (self.noise * risks[name] * _normal(g, generator)).to(g) * noisy[name]
            for name, g in gradients.items()
        }

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        return View(observed, mask_of_zeros(observed))


def weight_risks(model: nn.Module) -> dict[str, float]:
    """Return min(Var(w), 1) of every parameter's numbers (n - 1 in the denominator); 0 of a single number."""
    return {
        name: min(p.detach().double().var().item(), 1.0) if p.numel() > 1 else 0.0
        for name, p in model.named_parameters()
    }


def empirical_fisher(client: Client, gradients: Gradients) -> Gradients:
    """Return the mean over the batch of the examples' squared gradients.

    It is the square of `gradients` where an earlier defense has mixed the examples, as in OUTPOST's code.
    """
    examples = [gradients] if client.computed is not None else client.examples()
    return {
        name: torch.stack([example[name].double().square() for example in examples]).mean(0)
        for name in gradients
    }


def largest_of_all(values: Mapping[str, Tensor], share: float) -> dict[str, Bool[Tensor, "..."]]:
    """Return where the ⌊share · size⌋ largest of all numbers are, ties broken by position."""
    whole = torch.cat([value.flatten() for value in values.values()])
    largest = whole.argsort(descending=True, stable=True)[: int(share * len(whole) + 1e-9)]
    chosen = torch.zeros_like(whole, dtype=torch.bool).index_fill(0, largest, True)
    parts = chosen.split([value.numel() for value in values.values()])
    return {name: part.view_as(value) for part, (name, value) in zip(parts, values.items(), strict=True)}


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _positive(option: str, value: float) -> float:
    if not (value >= 0 and math.isfinite(value)):
        raise InputError(f"outpost: expected {option} of at least 0, found {value:g}")
    return value


def _share(option: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"outpost: expected {option} from 0 to 1, found {value:g}")
    return value
