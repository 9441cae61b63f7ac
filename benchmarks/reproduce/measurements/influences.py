"""What the inversion influence function predicts, beside what attacks find: by image, defense and draw."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import init

from ggl.attacks.inversion import attack_many
from ggl.attacks.target import Target
from ggl.base.devices import find_device
from ggl.base.random import stream
from ggl.base.weights import load_tensors
from ggl.benchmarks.reproduce.measurements.base import (
    Job,
    Key,
    Limit,
    Measurement,
    Over,
    Places,
    Row,
    Rows,
    file_name,
)
from ggl.commands.square_images import load_square
from ggl.datasets.loading import Dataset
from ggl.datasets.picking import pick_private
from ggl.defenses import load_defense
from ggl.generators import Prior, load_prior
from ggl.gradients import GradientOracle
from ggl.i2f.influence import influences
from ggl.i2f.measured import PixelAttack, measured_errors
from ggl.i2f.perturbations import Draws, perturbations
from ggl.i2f.problem import Influence
from ggl.victims import load_victim

__all__ = ["INITIALIZATIONS", "OWN", "Influences"]

Count = Annotated[int, Field(ge=1)]

OWN = "own"
"""The initialization that a victim has, or its state."""

STD = 12**-0.5
"""Of the uniform distribution on [-0.5, 0.5]; the normal one has the same."""

INITIALIZATIONS: Mapping[str, Callable[[nn.Parameter, torch.Generator], object]] = {
    "uniform": lambda p, g: init.uniform_(p, -0.5, 0.5, generator=g),
    "normal": lambda p, g: init.normal_(p, 0.0, STD, generator=g),
    "kaiming": lambda p, g: init.kaiming_normal_(p, generator=g),
    "xavier": lambda p, g: init.xavier_normal_(p, generator=g),
}
"""Biases are drawn alike by the first two and are 0 under the others."""


class Influences(Measurement):
    """Predicted and measured errors, root mean squares over pixels in [0, 1].

    Attributes:
        victim: names of victims.
        initialization: "own", or names of `INITIALIZATIONS`.
        state: files of trained weights by a name, of the victims; without any the victims are untrained.
        data: images, as for an audit.
        size: pixels a side that images are padded to; None takes them as they are.
        defense: names of defenses.
        images: how many, evenly of the classes.
        draws: of a defense's own randomness, for each image.
        victim_seeds: draws of the untrained weights; their figures are means over these.
        exact: whether the influence itself is computed, beside its bound.
        attack: one that measures errors without a prior, of `ggl.i2f.measured`.
        evaluations: of that attack, for each gradient.
        prior: of an attacker with one: its forecast, and what `strategy` finds in `budget` evaluations.
        ceiling_budget: of each private image's own inversion.
    """

    kind: Literal["influences"]
    victim: list[str]
    initialization: tuple[str, ...] = (OWN,)
    state: Mapping[str, str] = Field(default_factory=dict)
    data: str
    size: Count | None = None
    defense: list[str]
    images: Count
    draws: Count = 1
    victim_seeds: Count = 1
    exact: bool = True
    attack: PixelAttack | None = None
    evaluations: Count = 200
    prior: str | None = None
    strategy: str = "auto"
    budget: Count = 500
    ceiling_budget: Count = 1000

    over: ClassVar[Over] = "images"
    figures: ClassVar[tuple[str, ...]] = (
        *("bound", "exact", "measured", "forecast", "attacked", "ceiling"),
        *("lambda_max", "gradient_norm", "delta_norm", "relative", "label"),
    )
    pooled: ClassVar[frozenset[str]] = frozenset({"kind", "defense", "draw", "victim_seed"})
    limits: ClassVar[Mapping[str, Limit]] = {
        "images": "images",
        "evaluations": "budget",
        "budget": "budget",
        "ceiling_budget": "ceiling_budget",
    }

    def axes(self) -> Mapping[str, Sequence[Key]]:
        """Return what rows are told apart by; `kind` is a defense's name without its options."""
        return {
            "victim": self.victim,
            "initialization": list(self.initialization),
            "state": list(self.state) or [OWN],
            "kind": list(dict.fromkeys(map(_kind, self.defense))),
            "defense": self.defense,
            "draw": list(range(self.draws)),
            "victim_seed": list(range(self.victim_seeds)),
        }

    def jobs(self, places: Places) -> Mapping[str, Job]:
        """Return a job for every victim: its Jacobians are computed once for all defenses."""
        axes = self.axes()
        return {
            file_name(victim, initialization, state, seed): Job(
                predicted, (self, places, victim, str(initialization), str(state), seed)
            )
            for victim in self.victim
            for initialization in axes["initialization"]
            for state in axes["state"]
            for seed in range(self.victim_seeds)
        }

    def units(self) -> int:
        """Return how many images it has."""
        return self.images


def predicted(
    asked: Influences, places: Places, victim: str, initialization: str, state: str, victim_seed: int
) -> Rows:
    """Return the rows of one victim under every defense."""
    data = load_square(places.fill(asked.data), "test", None if asked.size is None else "pad", asked.size)
    chosen = pick_private(data.labels, asked.images, 0)
    images, labels = data.images[chosen], data.labels[chosen]
    model = _victim(asked, places, data, victim, initialization, state, victim_seed)
    device = find_device(places.device)
    prior = None if asked.prior is None else load_prior(asked.prior).to(device)
    found = influences(
        model,
        images,
        labels,
        asked.defense,
        Draws(asked.draws),
        exact=asked.exact,
        prior=prior,
        ceiling_budget=asked.ceiling_budget,
    )
    keys: dict[str, Key] = {
        "victim": victim,
        "initialization": initialization,
        "state": state,
        "victim_seed": victim_seed,
    }
    rows: Rows = []
    for name, one in zip(asked.defense, found, strict=True):
        errors = _errors(asked, prior, model, images, labels, name)
        rows += [
            Row(
                {**keys, "kind": _kind(name), "defense": name, "draw": draw},
                image,
                _figures(one, image, draw)
                | {"label": float(labels[image])}
                | {what: by_point[image, draw] for what, by_point in errors.items()},
            )
            for image in range(asked.images)
            for draw in range(asked.draws)
        ]
    return rows


def _kind(defense: str) -> str:
    return defense.partition(":")[0]


def _errors(
    asked: Influences, prior: Prior | None, model: nn.Module, images: Tensor, labels: Tensor, defense: str
) -> dict[str, Mapping[tuple[int, int], float]]:
    """Return what attacks find under one defense, by image and draw."""
    drawn = Draws(asked.draws)
    found: dict[str, Mapping[tuple[int, int], float]] = {}
    if asked.attack is not None:
        errors = measured_errors(
            model, images, labels, defense, drawn, attack=asked.attack, evaluations=asked.evaluations
        )
        found["measured"] = {at[1:]: error for at, error in errors.items()}
    if prior is not None:
        found["attacked"] = _attacked(asked, prior, model, images, labels, defense, drawn)
    return found


def _figures(found: Influence, image: int, draw: int) -> dict[str, float]:
    """Return what is predicted of one gradient.

    `relative` is the prediction for a perturbation of the gradient's own norm: J δ is linear in δ.
    """
    delta, gradient = float(found.delta_norm[image, draw]), float(found.gradient_norm[image])
    figures = {
        "bound": float(found.bound_rmse[image, draw]),
        "lambda_max": float(found.lambda_max[image]),
        "gradient_norm": gradient,
        "delta_norm": delta,
    }
    if delta > 0:
        figures["relative"] = float(found.rmse[image, draw]) * gradient / delta
    if found.exact_rmse is not None:
        figures["exact"] = float(found.exact_rmse[image, draw])
    if found.forecast is not None:
        figures["forecast"] = float(found.forecast.rmse[image, draw])
        figures["ceiling"] = float(found.forecast.ceiling[image]) ** 0.5
    return figures


def _attacked(
    asked: Influences,
    prior: Prior,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    defense: str,
    drawn: Draws,
) -> dict[tuple[int, int], float]:
    """Return what an attacker with the prior finds of the same gradients."""
    done = list(perturbations(model, images, labels, load_defense(defense), drawn))
    results = attack_many(
        GradientOracle(model),
        [Target(f"{one.image}-{one.draw}", one.shared, labels[one.image][None]) for one in done],
        prior=prior,
        strategy=asked.strategy,
        defense=defense,
        budget=asked.budget,
    )
    return {
        (one.image, one.draw): float((result.images[0] - images[one.image]).square().mean().sqrt())
        for one, result in zip(done, results, strict=True)
    }


def _victim(
    asked: Influences,
    places: Places,
    data: Dataset,
    name: str,
    initialization: str,
    state: str,
    seed: int,
) -> nn.Module:
    """Return a victim in eval mode, as it is initialized or trained."""
    channels, size, _ = data.images.shape[1:]
    model = load_victim(name, in_channels=channels, num_classes=data.num_classes, image_size=size, seed=seed)
    if initialization != OWN:
        random, fill = stream(seed, "initialization", initialization), INITIALIZATIONS[initialization]
        for parameter in model.parameters():
            if parameter.dim() > 1 or initialization in ("uniform", "normal"):
                fill(parameter, random)
            else:
                init.zeros_(parameter)
    if state != OWN:
        model.load_state_dict(load_tensors(Path(places.fill(asked.state[state]))))
    return model.eval().to(find_device(places.device))
