"""Signs that a prior is not the network it is meant to be: in its samples, in its normalizations."""

import itertools
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ggl.generators.base import Prior

__all__ = [
    "FITS",
    "ImplausiblePriorWarning",
    "doubts_of",
    "enough_samples",
    "misfit_text",
    "norm_misfits",
    "warn_if_implausible",
]

SAMPLES, CHUNK = 8, 4
MOST, PIXELS = 256, 32 * 64 * 64
"""Samples that normalizations are looked at with, and pixels of one channel that they may have together."""

STEP = 1 / 255
"""Of a pixel, below which two look alike."""

SATURATED = 0.98
"""Share of pixels that are black or white: handwritten digits, mostly black, have 0.9."""

UNRELATED = 0.1
"""Correlation of neighboring pixels: photographs have 0.9, handwritten digits 0.6, noise 0."""


FITS = 0.5
"""Misfit up to which normalizations are those of the network. That of digiface-dcgan64, a DCGAN trained on
faces, is 0.09; with LeakyReLU(0.01) 0.13, with uniform latents 1.0, with LeakyReLU(0.2) 1.5."""


class ImplausiblePriorWarning(UserWarning):
    """A prior's samples, or its normalizations, are not those of a generator that works."""


def doubts_of(prior: Prior, seed: int = 0) -> list[str]:
    """Return what is implausible of a prior, a sentence each: what loading found, then of 8 samples.

    Samples are doubtful where all are one image, of one color each, black and white alone, without a
    pixel below middle gray, or where neighboring pixels are unrelated.
    """
    return [*prior.doubts, *(() if prior.is_noise else _of_samples(_samples(prior, seed)))]


def warn_if_implausible(prior: Prior, seed: int = 0, *, stacklevel: int = 2) -> list[str]:
    """Issue one `ImplausiblePriorWarning` where `doubts_of` finds something; return what it found."""
    doubts = doubts_of(prior, seed)
    if doubts:
        warnings.warn(
            f"prior {prior.name} is doubtful: {'; '.join(doubts)}; see ggl check-prior",
            ImplausiblePriorWarning,
            stacklevel=stacklevel + 1,
        )
    return doubts


@torch.no_grad()
def _samples(prior: Prior, seed: int) -> Tensor:
    """Return samples (n, c, h, w) on the CPU, of classes in turn."""
    tensors = itertools.chain(prior.parameters(), prior.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    z = prior.sample(SAMPLES, torch.Generator().manual_seed(seed)).to(device)
    labels = None if prior.num_classes is None else torch.arange(SAMPLES, device=device) % prior.num_classes
    images = torch.cat(
        [
            prior.decode(part, None if labels is None else labels[i * CHUNK :][:CHUNK])
            for i, part in enumerate(z.split(CHUNK))
        ]
    )
    return images.float().cpu()


def _of_samples(images: Tensor) -> Iterator[str]:
    if float((images - images[:1]).abs().max()) < STEP:
        yield "all its samples are the same image"
        return
    flat = images.flatten(2)
    if float((flat.amax(2) - flat.amin(2)).max()) < STEP:
        yield "its samples are of one color each"
        return
    ends = ((images < STEP / 2) | (images > 1 - STEP / 2)).float().mean()
    if float(ends) > SATURATED:
        yield f"{float(ends):.0%} of its samples' pixels are black or white: saturated"
    if float(images.min()) > 0.5 - STEP:
        yield "no pixel of its samples is darker than middle gray: does it end in a sigmoid (range=)?"
    if _relation(images) < UNRELATED:
        yield "neighboring pixels of its samples are unrelated: pictures of noise"


def _relation(images: Tensor) -> float:
    """Return the larger mean correlation of pixels with their neighbors to the right, or below."""
    centered = images.double() - images.double().mean((2, 3), keepdim=True)
    power = centered.square().mean()
    pairs = (
        (centered[..., 1:] * centered[..., :-1], images.shape[3]),
        (centered[..., 1:, :] * centered[..., :-1, :], images.shape[2]),
    )
    return max((float(product.mean() / power) for product, length in pairs if length > 1), default=1.0)


def enough_samples(image_shape: tuple[int, int, int]) -> int:
    """Return how many samples show statistics: 256 of small images, fewer of larger ones, 4 at least."""
    return max(CHUNK, min(MOST, PIXELS // (image_shape[1] * image_shape[2])))


def misfit_text(misfit: float) -> str:
    """Return the doubt about a network whose normalizations do not fit."""
    return (
        "its batch normalizations meet other values than in training, so that this is another network, or "
        f"its latents are not standard normal (misfit {misfit:.2g}, where a trained one has 0.1)"
    )


@torch.no_grad()
def norm_misfits(network: nn.Module, run: Callable[[], object]) -> list[float]:
    """Return how far what each batch normalization meets is from what it recorded in training.

    A trained generator meets, on its own latents, what it met in training: the mean over channels of
    |μ - running mean| / σ + |log(σ / running σ)|, where μ and σ are over batch and positions, is near 0
    where the network is the one that was trained. Those without running statistics are left out.

    Args:
        network: in eval mode.
        run: calls it on a batch of its own latents.
    """
    found: list[Tensor] = []

    def hook(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        x = inputs[0].double()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        spread = x.var(axes, unbiased=True).clamp_min(1e-12).sqrt()
        if norm.running_mean is not None and norm.running_var is not None:
            recorded = norm.running_var.double().clamp_min(1e-12).sqrt()
            shift = (x.mean(axes) - norm.running_mean).abs() / recorded
            found.append((shift.clamp_max(10) + (spread / recorded).log().abs().clamp_max(10)).mean())

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    handles = [norm.register_forward_pre_hook(hook) for norm in norms]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [float(misfit) for misfit in found]
