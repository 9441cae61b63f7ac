"""Whether a prior keeps its contract, in plain words: `ggl check-prior mypkg:MyPrior`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ggl.generators.base import Prior
from ggl.generators.stages import StagedPrior

__all__ = ["Finding", "check_prior"]

ATOL = 1e-5
"""How far images of the same latent may differ, beside others or alone."""

FAR = 20.0
"""A coordinate that no prior draws, but a search may try."""

DRAWS = 4_000
UNLIKELY_SEED = 4_179_340_454
"""Not one that a prior would set itself."""

ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError),
    *(LookupError, OSError, RuntimeError, TypeError, ValueError),
)
"""What somebody else's code may raise while it is checked."""

CHUNK = 4
"""Images decoded at once, so that large priors fit."""


@dataclass(frozen=True)
class Finding:
    """What one check found; `problem` is None where the prior keeps to it."""

    check: str
    problem: str | None


def check_prior(prior: Prior, seed: int = 0) -> list[Finding]:
    """Run the contract on a prior and return what each check found.

    Decodes some twenty images. A check that raises an error counts as a problem, with the error's text.
    """
    findings = []
    for name, check in CHECKS.items():
        try:
            with torch.no_grad():
                problem = next(check(prior, seed), None)
        except ERRORS as error:
            problem = f"raised {type(error).__name__}: {_first_line(error)}"
        findings.append(Finding(name, problem))
    return findings


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _draw(prior: Prior, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    z = prior.sample(n, torch.Generator().manual_seed(seed))
    return z, None if prior.num_classes is None else torch.arange(n) % prior.num_classes


def _attributes(prior: Prior, _: int) -> Iterator[str]:
    for name, kind in {"name": str, "licence": str, "latent_dim": int, "image_shape": tuple}.items():
        if not isinstance(getattr(prior, name, None), kind):
            yield f"expected {name} to be a {kind.__name__}, found {getattr(prior, name, None)!r}"
    if prior.latent_dim < 1:
        yield f"expected latent_dim of at least 1, found {prior.latent_dim}"
    channels, *size = prior.image_shape
    if len(size) != 2 or channels not in (1, 3):
        yield f"expected image_shape (1 or 3, height, width), found {prior.image_shape}"
    if prior.num_classes is not None and not (isinstance(prior.num_classes, int) and prior.num_classes > 0):
        yield f"expected num_classes to be None or a positive int, found {prior.num_classes!r}"
    for name in ("latents", "heldout"):
        value = getattr(prior, name)
        if value is not None and not isinstance(value, str):
            yield f"expected {name} to be a name, found {type(value).__name__}"


def _samples(prior: Prior, seed: int) -> Iterator[str]:
    before = torch.get_rng_state()
    z, again = _draw(prior, 5, seed)[0], _draw(prior, 5, seed)[0]
    if z.shape != (5, prior.latent_dim) or z.dtype != torch.float32:
        yield f"expected sample(5) as float32 of 5 x {prior.latent_dim}, found {z.dtype} of {tuple(z.shape)}"
    if not torch.equal(z, again):
        yield "sample gives other latents for the same generator: draw from the generator passed in only"
    if not torch.equal(before, torch.get_rng_state()):
        yield "sample moves torch's global random state: draw from the generator passed in only"
    if torch.equal(z, _draw(prior, 5, seed + 1)[0]):
        yield "sample gives the same latents for another generator"


def _images(prior: Prior, seed: int) -> Iterator[str]:
    images = prior.decode(*_draw(prior, CHUNK, seed))
    if images.shape != (CHUNK, *prior.image_shape):
        yield f"expected {CHUNK} images of {prior.image_shape}, found the shape {tuple(images.shape)}"
    if images.dtype != torch.float32:
        yield f"expected float32 images for float32 latents, found {images.dtype}"
    if float((images[0] - images[1]).abs().max()) == 0:
        yield "two latents give the same image"


def _range(prior: Prior, seed: int) -> Iterator[str]:
    z, labels = _draw(prior, 2, seed)
    for latents, whose in ((z, "its own samples"), (torch.full_like(z, FAR), f"latents of {FAR:g}")):
        images = prior.decode(latents, labels)
        low, high = float(images.min()), float(images.max())
        if not 0 <= low <= high <= 1:
            yield f"expected pixels in 0 to 1, found {low:g} to {high:g} for {whose}; clamp them"


def _determinism(prior: Prior, seed: int) -> Iterator[str]:
    z, labels = _draw(prior, 2, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNLIKELY_SEED)
        before = torch.get_rng_state()
        same = torch.equal(prior.decode(z, labels), prior.decode(z, labels))
        kept = torch.equal(before, torch.get_rng_state())
    if not same:
        yield (
            "the same latents give other images when decoded again: fix the network's noise, and leave "
            "dropout and batch statistics (train mode) out"
        )
    if not kept:
        yield "decode moves torch's global random state: let it draw nothing and set no seed"


def _neighbors(prior: Prior, seed: int) -> Iterator[str]:
    z, labels = _draw(prior, CHUNK, seed)
    together = prior.decode(z, labels)
    alone = prior.decode(z[:1], None if labels is None else labels[:1])
    if float((alone[0] - together[0]).abs().max()) > ATOL:
        yield (
            "an image depends on the others decoded beside it: use eval mode, "
            "and no statistics over the batch"
        )


def _arguments(prior: Prior, seed: int) -> Iterator[str]:
    z, labels = _draw(prior, 2, seed)
    kept = z.clone()
    prior.decode(z, labels)
    if not torch.equal(z, kept):
        yield "decode changes the latents it is given: work on a copy"


def _gradient(prior: Prior, seed: int) -> Iterator[str]:
    z, labels = _draw(prior, 2, seed)
    z.requires_grad_()
    with torch.enable_grad():
        total = prior.decode(z, labels).sum()
    if not total.requires_grad:
        yield "images are not differentiable in the latents: leave out no_grad, detach and NumPy"
        return
    total.backward()
    if z.grad is None or not z.grad.isfinite().all() or not z.grad.any():
        yield "the gradient of an image in its latent is zero or not finite"
    if any(p.requires_grad for p in prior.parameters()):
        yield "its parameters require gradients, which costs time and memory: call requires_grad_(False)"


def _penalty(prior: Prior, seed: int) -> Iterator[str]:
    penalty = prior.penalty(_draw(prior, DRAWS, seed)[0])
    if penalty.shape != (DRAWS,):
        yield f"expected a penalty for each of {DRAWS} latents, found the shape {tuple(penalty.shape)}"
    elif float(penalty.mean().abs()) > 5 * float(penalty.std()) / DRAWS**0.5:
        yield f"expected a penalty of mean 0 over its own samples, found {float(penalty.mean()):g}"


def _labels(prior: Prior, seed: int) -> Iterator[str]:
    if prior.num_classes is None:
        return
    z, _ = _draw(prior, 1, seed)
    for wrong in (None, torch.tensor([prior.num_classes]), torch.tensor([-1])):
        try:
            prior.decode(z, wrong)
        except ValueError:
            continue
        found = "no labels" if wrong is None else f"the label {int(wrong)}"
        yield f"decode takes {found} of a prior with {prior.num_classes} classes: call check_labels first"


def _stages(prior: Prior, seed: int) -> Iterator[str]:
    if not isinstance(prior, StagedPrior) or not prior.stages:
        return
    z, labels = _draw(prior, 2, seed)
    images = prior.decode(z, labels)
    for k in sorted({1, len(prior.stages)}):
        a, size = prior.features(z, labels, k), prior.stages[k - 1].size
        if a.shape != (2, size):
            yield f"expected features of {(2, size)} after stage {k}, found the shape {tuple(a.shape)}"
        elif float((prior.finish(a, z, labels, k) - images).abs().max()) > ATOL:
            yield f"finish makes other images of the features after stage {k} than decode of their latents"


CHECKS: dict[str, Callable[[Prior, int], Iterator[str]]] = {
    "describes itself": _attributes,
    "samples come from the generator alone": _samples,
    "images have the stated shape": _images,
    "pixels are in 0 to 1": _range,
    "the same latents give the same images": _determinism,
    "an image does not depend on its neighbors": _neighbors,
    "latents are left as they were": _arguments,
    "images are differentiable in the latents": _gradient,
    "the penalty has mean 0": _penalty,
    "labels are needed and checked": _labels,
    "stages make the same images": _stages,
}
