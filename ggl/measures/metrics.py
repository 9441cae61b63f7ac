"""How far a reconstruction is from the private image, by every measure of the literature.

Each function takes two batches of images (n, c, h, w) in [0, 1] and returns one number a pair, (n,).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import scipy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.base.errors import InputError

__all__ = [
    "METRICS",
    "Metric",
    "check_pair",
    "check_window",
    "feature_distance",
    "match",
    "mse",
    "psnr",
    "psnr_signed",
    "ssim",
    "ssim_error",
]

Images = Float[Tensor, "n c h w"]
PerImage = Float[Tensor, " n"]

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
SIGNED_RANGE_DB = 20 * math.log10(2)


class Metric(NamedTuple):
    """What a report needs to know of a metric; one that is lower-is-better can serve as an error."""

    name: str
    label: str
    unit: str
    lower_is_better: bool


METRICS = {
    metric.name: metric
    for metric in (
        Metric("mse", "MSE", "", True),
        Metric("psnr", "PSNR", "dB", False),
        Metric("psnr_signed", "PSNR (peak 1 on [-1, 1])", "dB", False),
        Metric("ssim", "SSIM", "", False),
        Metric("ssim_error", "1 - SSIM", "", True),
        Metric("lpips", "LPIPS (AlexNet)", "", True),
        Metric("feature_distance", "MSE-R", "", True),
    )
}


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raise `InputError` unless `a` and `b` are batches of images of one shape."""
    if a.ndim != 4 or a.shape != b.shape:
        raise InputError(
            "expected two batches of images of one shape (n, c, h, w), "
            f"found {tuple(a.shape)} and {tuple(b.shape)}"
        )


def mse(a: Images, b: Images) -> PerImage:
    """Return the mean squared error, in [0, 1]."""
    check_pair(a, b)
    return (a - b).square().flatten(1).mean(1)


def psnr(a: Images, b: Images) -> PerImage:
    """Return the peak signal-to-noise ratio in dB, for a peak of 1 on [0, 1]; inf where identical."""
    return -10 * mse(a, b).log10()


def psnr_signed(a: Images, b: Images) -> PerImage:
    """Return the PSNR in dB as GGL, GIFD and others print it; inf where identical.

    They score images in [-1, 1] with a peak of 1 though the range is 2, which is exactly
    20 log10(2) = 6.02 dB below `psnr`.
    """
    return psnr(a, b) - SIGNED_RANGE_DB


def ssim(a: Images, b: Images) -> PerImage:
    """Return the structural similarity, in [-1, 1]; 1 where identical.

    Wang et al. 2004, equation 13: a Gaussian window of 11 px and sigma 1.5, a data range of 1, population
    covariance, the mean over channels and over the positions where the whole window fits.

    Raises:
        InputError: an image is smaller than the window, 11 px.
    """
    check_pair(a, b)
    check_window(a)
    mean_a, mean_b, square_a, square_b, product = _window_means(torch.stack([a, b, a * a, b * b, a * b]))
    means = mean_a * mean_b
    squares = mean_a**2 + mean_b**2
    luminance = (2 * means + SSIM_C1) / (squares + SSIM_C1)
    structure = (2 * (product - means) + SSIM_C2) / (square_a + square_b - squares + SSIM_C2)
    similarity: Tensor = (luminance * structure).flatten(1).mean(1)
    return similarity


def _window_means(images: Float[Tensor, "k n c h w"]) -> Float[Tensor, "k n c y x"]:
    """Return the means under SSIM's window, where it fits."""
    rows, columns = (_window_at_places(size).to(images) for size in images.shape[-2:])
    return rows @ images @ columns.T


def _window_at_places(size: int) -> Float[Tensor, "places size"]:
    """Return SSIM's window in one dimension at each place where it fits, as a matrix."""
    offsets = torch.arange(size) - torch.arange(size - SSIM_WINDOW + 1)[:, None]
    distances = (offsets - SSIM_WINDOW // 2).double()
    inside = (offsets >= 0) & (offsets < SSIM_WINDOW)
    return torch.softmax(torch.where(inside, -(distances**2) / (2 * SSIM_SIGMA**2), -torch.inf), 1)


def ssim_error(a: Images, b: Images) -> PerImage:
    """Return 1 - SSIM, in [0, 2]: the structural similarity as an error."""
    return 1 - ssim(a, b)


@torch.no_grad()
def feature_distance(features: Callable[[Tensor], Tensor], a: Images, b: Images) -> PerImage:
    """Return MSE-R, the mean squared error between the victim's features (GGL, arXiv 2203.15696).

    `features` maps images (n, c, h, w) to the inputs of the victim's last layer, (n, ...).
    """
    check_pair(a, b)
    return (features(a) - features(b)).square().flatten(1).mean(1)


def match(reconstructions: Float[Tensor, "b c h w"], private: Float[Tensor, "b c h w"]) -> Int[Tensor, " b"]:
    """Return the order in which `reconstructions[order]` lines up with `private`.

    A shared gradient does not tell the order of its batch; this is the one-to-one assignment of least
    total squared error.

    Raises:
        InputError: the shapes differ, or a pixel is not finite.
    """
    check_pair(reconstructions, private)
    exact = "donot_use_mm_for_euclid_dist"
    cost = torch.cdist(private.flatten(1), reconstructions.flatten(1), compute_mode=exact).square()
    if not cost.isfinite().all():
        raise InputError("expected finite images to match, found infinite or undefined pixels")
    _, order = scipy.optimize.linear_sum_assignment(cost.detach().cpu().numpy())
    return torch.from_numpy(order).to(private.device)


def check_window(images: Float[Tensor, "n c h w"]) -> None:
    """Raise `InputError` for images that are smaller than the window of SSIM."""
    if min(images.shape[-2:]) < SSIM_WINDOW:
        height, width = images.shape[-2:]
        raise InputError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} px, found {height} x {width}"
        )
