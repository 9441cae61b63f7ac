"""Bring images to the shape that a prior gives: pad, resize or crop, and grey to RGB or back."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name

__all__ = ["FITS", "fit_images"]

LUMA = (0.299, 0.587, 0.114)


def fit_images(
    images: Float[Tensor, "n channels height width"], image_shape: tuple[int, int, int], fit: str
) -> Float[Tensor, "n out_channels out_height out_width"]:
    """Return `images`, in [0, 1], in the shape `image_shape` (c, h, w), still in [0, 1].

    Args:
        images: of 1 or 3 channels.
        image_shape: the shape to reach. Grey is repeated into RGB; RGB becomes its luma (ITU-R BT.601).
        fit: "pad" (zeros on all sides), "resize" (mean over areas, which may change proportions) or
            "center-crop".

    Raises:
        InputError: the images are too large to pad or too small to crop, or the channels do not suit.
    """
    if fit not in FITS:
        raise unknown_name("fit", fit, sorted(FITS))
    channels, height, width = image_shape
    return FITS[fit](_with_channels(images, channels), height, width)


def _with_channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[1] == channels:
        return images
    if (images.shape[1], channels) == (1, 3):
        return images.expand(-1, 3, -1, -1)
    if (images.shape[1], channels) == (3, 1):
        weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        return (images * weights).sum(1, keepdim=True)
    raise InputError(f"expected images of {channels} channels, found {images.shape[1]}; only 1 and 3 convert")


def _margins(images: Tensor, height: int, width: int) -> tuple[int, int]:
    return height - images.shape[-2], width - images.shape[-1]


def _pad(images: Tensor, height: int, width: int) -> Tensor:
    rows, columns = _margins(images, height, width)
    if min(rows, columns) < 0:
        raise InputError(
            f"expected images of at most {height}x{width} to pad, "
            f"found {images.shape[-2]}x{images.shape[-1]}; use fit 'resize' or 'center-crop'"
        )
    return F.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(images, (height, width), mode="area")


def _center_crop(images: Tensor, height: int, width: int) -> Tensor:
    rows, columns = _margins(images, height, width)
    if max(rows, columns) > 0:
        raise InputError(
            f"expected images of at least {height}x{width} to crop, "
            f"found {images.shape[-2]}x{images.shape[-1]}; use fit 'pad' or 'resize'"
        )
    top, left = -rows // 2, -columns // 2
    return images[..., top : top + height, left : left + width]


FITS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "pad": _pad,
    "resize": _resize,
    "center-crop": _center_crop,
}
