"""Attacks on pixels that measure what the influence function predicts."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.attacks.inversion import attack_many
from ggl.attacks.objectives import exact_oracle
from ggl.attacks.pixel_attacks import CONTRASTS
from ggl.attacks.target import Target
from ggl.base.random import stream
from ggl.defenses import load_defense
from ggl.generators import load_prior
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.view import global_norm
from ggl.i2f.perturbations import Draws, Perturbation, perturbations, wrapped_victim
from ggl.i2f.report import Measured

__all__ = ["PixelAttack", "invert_pixels", "measured_errors"]

PixelAttack: TypeAlias = Literal["private", "noise", "ig"]
"""L-BFGS on the squared distance, by where it begins, or the contrast `ig`. From the private image L-BFGS
ends in the minimum that the defense has moved it to: the perfect attacker of the theory, whom no local
minimum on the way stops. Noise, uniform in [0, 1], is what an attacker has. `ig` begins at noise too; its
steps pass the jumps of ReLU networks' gradients, at which a line search ends."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and what is planned: gradients attacked, or evaluations of `ig`."""

Found: TypeAlias = tuple[tuple[int, int], Tensor]
"""The numbers of an image and of a draw, and the pixels found."""

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
    draws: Draws | None = None,
    *,
    attack: PixelAttack = "private",
    evaluations: int = 200,
    progress: Progress | None = None,
) -> Measured:
    """Attack what a defense leaves of every image's gradient; return the errors over pixels, RMSE.

    The shared gradients are those that `ggl.i2f.influence` predicts for with the same settings. L-BFGS is
    computed in double precision: what a step gains on a large victim is below single's rounding. `ig` is
    computed in single precision, all images side by side, and is naive of the defense.

    Raises:
        InputError: a defense whose victim samples.
    """
    drawn = draws or Draws()
    known = load_defense(defense)
    model = copy.deepcopy(wrapped_victim(known, victim, drawn.seed)).double()
    images = images.double()
    shares = perturbations(model, images, labels, known, drawn)
    if attack == "ig":
        found = _by_ig(model, shares, labels, images[0].shape, evaluations, drawn.seed, progress)
    else:
        found = _by_lbfgs(model, shares, labels, images, attack, evaluations, drawn.seed)
        if progress is not None:
            found = _counted(found, len(images) * drawn.count, progress)
    return {
        (known.name, image, draw): float((pixels.cpu() - images[image].cpu()).square().mean().sqrt())
        for (image, draw), pixels in found
    }


def _counted(found: Iterable[Found], planned: int, progress: Progress) -> Iterator[Found]:
    for done, one in enumerate(found, 1):
        yield one
        progress(done, planned)


def _by_lbfgs(
    model: nn.Module,
    shares: Iterable[Perturbation],
    labels: Tensor,
    images: Tensor,
    start: Literal["private", "noise"],
    evaluations: int,
    seed: int,
) -> Iterator[Found]:
    """Yield what each gradient gives away, one after the other."""
    oracle = GradientOracle(model, backend="sequential")
    for one in shares:
        image = images[one.image]
        noise = torch.rand(image.shape, generator=stream(seed, "pixel start", one.image, one.draw))
        begin = image if start == "private" else noise
        label = labels[one.image][None]
        yield (one.image, one.draw), invert_pixels(oracle, one.shared, label, begin, evaluations=evaluations)


def _by_ig(
    model: nn.Module,
    shares: Iterable[Perturbation],
    labels: Tensor,
    shape: Sequence[int],
    evaluations: int,
    seed: int,
    progress: Progress | None,
) -> Iterator[Found]:
    """Yield what the gradients give away, attacked side by side."""
    targets = {}
    for one in shares:
        shared = {name: g.float() for name, g in one.shared.items()}
        target = Target(f"{one.image}, {one.draw}", shared, labels[one.image][None])
        targets[one.image, one.draw] = target
    ig = CONTRASTS["ig"]
    results = attack_many(
        exact_oracle(GradientOracle(model.float())),
        list(targets.values()),
        prior=load_prior(f"pixels:{'x'.join(map(str, shape))}"),
        strategy=ig.strategy,
        attacker="naive",
        distance=ig.distance,
        latents=ig.latents,
        budget=evaluations,
        seed=seed,
        progress=None if progress is None else lambda done, planned, _: progress(done, planned),
    )
    for key, result in zip(targets, results, strict=True):
        yield key, result.images[0]
