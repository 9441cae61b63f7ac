"""The attack that the influence function speaks of: pixels whose gradient is the shared one."""

import copy
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.random import stream
from ggl.defenses import load_defense
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.view import global_norm
from ggl.i2f_report import Measured
from ggl.perturbations import perturbations, wrapped_victim

__all__ = ["Start", "invert_pixels", "measured_errors"]

Start: TypeAlias = Literal["private", "noise"]
"""Where the descent begins. At the private image it ends in the minimum that the defense has moved it to:
the perfect attacker of the theory, whom no local minimum on the way stops. Noise, uniform in [0, 1], is what
an attacker has."""

MEMORY = 100
"""Steps that L-BFGS remembers."""


def invert_pixels(
    oracle: GradientOracle,
    shared: Gradients,
    label: Int[Tensor, " 1"],
    start: Float[Tensor, "c h w"],
    *,
    evaluations: int,
) -> Float[Tensor, "c h w"]:
    """Return the pixels whose gradient is nearest to the shared one, by L-BFGS from a start.

    DLG (arXiv 1906.08935, eq. 4) with the label known. Pixels are not held in [0, 1]: the theory's are not.

    Args:
        oracle: of the victim that shared.
        shared: the defended gradient; the attacker is naive of the defense, as in the theory.
        label: of the image.
        start: pixels to begin with.
        evaluations: of the objective with its gradient, at most, but for a line search under way.
    """
    pixels = start.to(oracle.device, oracle.dtype).clone().requires_grad_()
    scale = 1 / global_norm(shared).square()
    descent = torch.optim.LBFGS(
        [pixels],
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=MEMORY,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    best = (float("inf"), pixels.detach().clone())

    def objective() -> Tensor:
        nonlocal best
        descent.zero_grad()
        loss = scale * oracle.score(pixels[None], label, shared, "l2")[0]
        loss.backward()
        value = float(loss.detach())
        if value < best[0]:
            best = (value, pixels.detach().clone())
        return loss

    descent.step(objective)
    return best[1]


def measured_errors(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    defense: str,
    *,
    start: Start = "private",
    evaluations: int = 200,
    draws: int = 1,
    seed: int = 0,
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Attack what a defense leaves of every image's gradient; return the errors over pixels, RMSE.

    The shared gradients are those that `ggl.i2f.influence` predicts for with the same settings. Everything is
    computed in double precision: what a step gains on a large victim is below single's rounding. `progress`
    is called with the attacks done and those planned.

    Raises:
        InputError: a defense whose victim samples.
    """
    known = load_defense(defense)
    model = copy.deepcopy(wrapped_victim(known, victim, seed)).double()
    images = images.double()
    oracle = GradientOracle(model, backend="sequential")
    shares = perturbations(model, images, labels, known, draws=draws, seed=seed, round=round, rounds=rounds)
    errors = {}
    for one in shares:
        image = images[one.image]
        noise = torch.rand(image.shape, generator=stream(seed, "pixel start", one.image, one.draw))
        found = invert_pixels(
            oracle,
            one.shared,
            labels[one.image][None],
            image if start == "private" else noise,
            evaluations=evaluations,
        )
        difference = found.cpu() - image.cpu()
        errors[known.name, one.image, one.draw] = float(difference.square().mean().sqrt())
        if progress is not None:
            progress(len(errors), len(images) * draws)
    return errors
