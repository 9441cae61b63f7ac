"""One photograph: a file of any size, rotation, depth and color mode, as a picture in [0, 1]."""

import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ggl.base.errors import InputError

__all__ = ["Picture", "is_image", "read_image"]

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""Raster formats that begin with a mark of their own and need no other program to be read."""

READ_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif"),
}
OTHER_SUFFIXES = {
    *(".heic", ".heif", ".hif", ".jxl", ".tga", ".psd", ".svg", ".eps", ".ico", ".dcm", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
}
"""Images too, which are not read: to pass over one would leave a private image out."""

DEEP_MODES, DEEP_WHITE = ("I;16", "I;16L", "I;16B", "I;16N"), 65535
GREY_MODES = ("1", "L", "LA", "La")
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What Pillow raises on damaged files."""


class Picture(NamedTuple):
    """An image file's content.

    Attributes:
        pixels: (c, h, w) in [0, 1], of 1 channel where the file is grey, else of 3.
        frames: of the file; the first one was taken.
        transparent: whether a pixel was transparent, and composed over white.
        deepest: the largest value of a file of 16 bits a channel, None of others.
    """

    pixels: Float32[Tensor, "channels height width"]
    frames: int = 1
    transparent: bool = False
    deepest: int | None = None


def is_image(path: Path) -> bool:
    """Return whether a file is an image by its suffix, or by its content where the suffix says nothing."""
    if path.suffix.lower() in READ_SUFFIXES | OTHER_SUFFIXES:
        return True
    try:
        with _open(path):
            return True
    except UNREADABLE:
        return False


def read_image(path: Path) -> Picture:
    """Read an image as a viewer shows it: turned as its EXIF entry says, transparent pixels over white.

    Palettes, CMYK and the like become RGB (without color profiles); 16 bits a channel are divided by 65,535,
    in color by Pillow down to 8 bits. Of several frames the first is taken.

    Raises:
        InputError: the file is no image, is damaged, too large, or of a kind that is not read.
    """
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise InputError(f"{path}: expected a format that is read (PNG, JPEG, ...); convert the file to PNG")
    try:
        with _open(path) as image:
            frames = int(getattr(image, "n_frames", 1))
            deep = image.mode in DEEP_MODES or (image.mode == "I" and image.format == "PPM")
            if image.mode in ("I", "F") and not deep:
                raise InputError(
                    f"{path}: expected an image of 8 or 16 bits a channel, found mode {image.mode}; "
                    "convert the file to 8 bits"
                )
            turned = ImageOps.exif_transpose(image)
            return (_deep(turned) if deep else _shallow(turned))._replace(frames=frames)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"{path}: expected an image of at most {most} pixels, found more; make it smaller"
        ) from error
    except UNREADABLE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            text = "no image that is known"
        raise InputError(
            f"{path}: expected an image, but it cannot be read ({text}); mend or remove the file"
        ) from error


def _open(path: Path) -> Image.Image:
    """Open a file, quietly up to twice the size from which Pillow warns; beyond it refuses."""
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])


def _deep(image: Image.Image) -> Picture:
    pixels = np.asarray(image).astype(np.int64)
    scaled = torch.from_numpy(pixels).to(torch.float32).div_(DEEP_WHITE)
    return Picture(scaled[None], deepest=int(pixels.max()))


def _shallow(image: Image.Image) -> Picture:
    grey, transparent = image.mode in GREY_MODES, False
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        transparent = layer.getchannel("A").getextrema() != (255, 255)
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    pixels = np.array(image.convert("L" if grey else "RGB"))
    channels_last = torch.from_numpy(np.atleast_3d(pixels))
    return Picture(channels_last.permute(2, 0, 1).to(torch.float32).div_(255), transparent=transparent)
