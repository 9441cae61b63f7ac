"""The inversion influence function: how wrong a perfect attacker must be, predicted without an attack.

Zhang et al., I²F (NeurIPS 2023, arXiv 2309.13016). A defense moves the shared gradient by δ, and the image
that explains the moved gradient lies (J Jᵀ + ε I)⁻¹ J δ away, J being ∇_x ∇_θ L: to first order.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.counting import Count
from ggl.base.errors import InputError
from ggl.defenses import Defense, load_defense
from ggl.generators import Prior
from ggl.gradients import GradientOracle
from ggl.i2f.forecast import CEILING_BUDGET, Forecast, forecasts
from ggl.i2f.jacobian import check_separable
from ggl.i2f.perturbations import Draws, perturbations, wrapped_victim
from ggl.i2f.problem import Influence, Problem

__all__ = ["influence", "influences"]


def influence(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    defense: str | Defense,
    *,
    draws: int = 1,
    damping: float | None = None,
    seed: int = 0,
    exact: bool = True,
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
    prior: Prior | None = None,
    ceiling_budget: int = CEILING_BUDGET,
    progress: Count | None = None,
) -> Influence:
    """Predict the error of a perfect attacker on every image under a defense; with a prior, of its owner too.

    >>> import ggl
    >>> data, prior = ggl.load_dataset("fashion-mnist-heldout"), ggl.load_prior("fashion-dcgan32")
    >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    >>> known = ggl.influence(victim, data.images[:2], data.labels[:2], "noise:0.2",
    ...                       exact=False, prior=prior, ceiling_budget=50)
    >>> known.forecast.psnr.shape
    (2, 1)

    Args:
        victim: the model, on the device, in the precision and in the mode that the clients have.
        images: private images in [0, 1].
        labels: their classes.
        defense: an object or a name such as "noise:0.01", "prune:0.9".
        draws: of the defense's own randomness, for each image.
        damping: ε over λ_max, above 0. As ε goes to 0 the exact influence becomes that of J's
            pseudo-inverse; with ε = λ_max it is at most twice the bound. By default `DAMPING`, and
            `ITERATIVE_DAMPING` where the eigenpairs of all images together are too large for memory.
        seed: of every random draw; draw 0 is the one that `audit` meets with this seed.
        exact: whether to solve for the exact influence; the bound costs far less.
        round: rounds of training before this one, for defenses that change over training.
        rounds: rounds of training in all.
        prior: an attacker's generator. Its images' own inversions and what the gradient leaves open within
            it make the forecast (`ggl.i2f.forecast.Forecast`), in `forecast` of what is returned.
        ceiling_budget: evaluations of each of these inversions.
        progress: called after every group of images.

    Raises:
        InputError: a victim that samples or mixes images, a defense that makes it so, labels or settings
            that are out of range; with a prior, a defense that does more than scale, mask and add noise, or
            a prior whose latents are not standard normal or whose images have another shape.
        GradientError: a gradient that is zero, not finite, or does not depend on the image.
    """
    drawn = Draws(draws, seed, round, rounds)
    return influences(
        victim,
        images,
        labels,
        [defense],
        drawn,
        damping=damping,
        exact=exact,
        prior=prior,
        ceiling_budget=ceiling_budget,
        progress=progress,
    )[0]


def influences(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    defenses: Sequence[str | Defense],
    draws: Draws | None = None,
    *,
    damping: float | None = None,
    exact: bool = True,
    prior: Prior | None = None,
    ceiling_budget: int = CEILING_BUDGET,
    progress: Count | None = None,
) -> list[Influence]:
    """Return the `influence` of several defenses; what is the victim's or the prior's is computed once."""
    if damping is not None and not (damping > 0 and np.isfinite(damping)):
        raise InputError(
            f"expected a damping above 0, epsilon over the largest eigenvalue; found {damping:g}"
        )
    check_separable(victim)
    if len(images):
        # A label out of range would silently become another under vmap.
        GradientOracle(victim).gradient(images, labels)
    drawn = draws or Draws()
    known = [load_defense(defense) for defense in defenses]
    report = progress or (lambda *_: None)
    predicted: list[Forecast] = []
    if prior is not None:
        predicted = forecasts(
            victim, images, labels, known, drawn, prior, ceiling_budget=ceiling_budget, progress=report
        )
    problems: dict[int, Problem] = {}
    found = []
    for defense, model in [(d, wrapped_victim(d, victim, drawn.seed)) for d in known]:
        if id(model) not in problems:
            problems[id(model)] = Problem(model, images, labels, damping, exact, report)
        moved = perturbations(model, images, labels, defense, drawn)
        found.append(problems[id(model)].measure(defense.name, moved, drawn.count))
    return [replace(one, forecast=with_prior) for one, with_prior in zip_longest(found, predicted)]
