"""Images and labels as arrays: read from an `.npz`, and made tensors of without a guess at their scale."""

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from ggl.base.errors import InputError

__all__ = ["RawImages", "images_of", "labels_of", "read_groups", "read_npz"]

MOST_CLASSES = 1_000_000
DARKEST = 1 / 255 + 1e-6
"""The largest value of images in [0, 1] that were divided by 255 once too often."""


class RawImages(NamedTuple):
    """Images (n, h, w), (n, h, w, c) or (n, c, h, w) and labels, as a source holds them; the class count."""

    images: NDArray[Any]
    labels: NDArray[Any]
    num_classes: int | None = None


def read_npz(path: Path, split: str) -> RawImages:
    """Read `images` and `labels`, or else `{split}_images` and `{split}_labels`; pickles are refused."""
    images, labels = _read(path, lambda found: _array_names(path, found, split))
    return RawImages(images, labels)


def read_groups(source: str, key: str, n: int) -> list[str]:
    """Return the group of each of n images, an array of its own in their `.npz`: whole numbers or texts.

    Raises:
        InputError: another kind of source, no such array, or not one group for each image.
    """
    path = Path(source).expanduser()
    if path.suffix != ".npz":
        raise InputError(
            f"{source}: groups are read from an array of the images' own .npz, found none; give one"
        )

    def named(found: list[str]) -> tuple[str]:
        if key not in found:
            raise InputError(
                f"{path}: expected the groups as array {key!r}, found {', '.join(found) or 'none'}"
            )
        return (key,)

    (groups,) = _read(path, named)
    if groups.dtype.kind not in "iubU" or groups.shape not in ((n,), (n, 1)):
        raise InputError(
            f"{path}: expected {key!r} as a whole number or a text for each of {n} images, found "
            f"{groups.dtype} of the shape {_shape(groups.shape)}"
        )
    return [str(group) for group in groups.reshape(-1).tolist()]


def _read(path: Path, chosen: Callable[[list[str]], Sequence[str]]) -> list[NDArray[Any]]:
    """Return the arrays of a file that are chosen from its names; pickles are refused."""
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            return [np.asarray(arrays[name]) for name in chosen(arrays.files)]
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        said = getattr(error, "strerror", None) or str(error)
        reason = (said.strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: expected an npz file of plain arrays, but it cannot be read ({reason})"
        ) from error


def _array_names(path: Path, found: list[str], split: str) -> tuple[str, str]:
    pairs = [("images", "labels"), (f"{split}_images", f"{split}_labels")]
    for images, labels in pairs:
        if images in found and labels in found:
            return images, labels
    expected = " or ".join(f"{images!r} and {labels!r}" for images, labels in pairs)
    raise InputError(f"{path}: expected the arrays {expected}, found {', '.join(found) or 'none'}")


def images_of(name: str, raw: RawImages) -> Float32[Tensor, "n channels height width"]:
    """Return a source's images in [0, 1], channels first.

    Raises:
        InputError: another type or shape, or values of another scale than 0 to 255 as uint8 and 0 to 1.
    """
    images: NDArray[Any] = raw.images
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(
            f"{name}: expected images as uint8 or float in 0 to 1, found {images.dtype}; "
            "convert values of 0 to 255 to uint8"
        )
    pixels = np.ascontiguousarray(_channels_first(name, images), dtype=np.float32)
    tensor = torch.from_numpy(pixels).div_(255 if images.dtype == np.uint8 else 1)
    low, high = float(tensor.min()), float(tensor.max())
    if not 0 <= low <= high <= 1:
        advice = "; multiply by 0.5 and add 0.5" if -1 <= low < 0 < high <= 1 else ""
        advice = "; divide by 255" if low >= 0 and 1 < high <= 255 else advice
        raise InputError(f"{name}: expected pixels in 0 to 1, found {low:g} to {high:g}{advice}")
    if 0 < high <= DARKEST:
        found = "0 and 1 as uint8" if images.dtype == np.uint8 else f"at most {high:g}"
        raise InputError(
            f"{name}: expected pixels in 0 to 255 as uint8, or in 0 to 1 as float, found {found}: they were "
            "divided by 255 once too often, or are a mask; bring them to that scale"
        )
    return tensor


def _channels_first(name: str, images: NDArray[Any]) -> NDArray[Any]:
    shaped = images[..., None] if images.ndim == 3 else images
    last = shaped.ndim == 4 and shaped.shape[-1] in (1, 3)
    first = images.ndim == 4 and shaped.shape[1] in (1, 3)
    if not (last or first) or not shaped.size:
        raise InputError(
            f"{name}: expected images as n x h x w, n x h x w x c or n x c x h x w with 1 or 3 channels, "
            f"found the shape {_shape(images.shape)}"
        )
    if last and first:
        raise InputError(
            f"{name}: expected images whose channels are told from their height and width, found the shape "
            f"{_shape(images.shape)}; leave single channels out (n x h x w)"
        )
    return shaped.transpose(0, 3, 1, 2) if last else shaped


def labels_of(name: str, raw: RawImages) -> Int64[Tensor, " n"]:
    """Return a source's labels (n,).

    Raises:
        InputError: they are no integers, not one an image, or out of range.
    """
    labels: NDArray[Any] = raw.labels
    if labels.dtype.kind not in "iu":
        raise InputError(f"{name}: expected integer labels, found {labels.dtype}")
    if labels.shape not in ((len(raw.images),), (len(raw.images), 1)):
        one_hot = labels.ndim == 2 and len(labels) == len(raw.images) and (labels.sum(1) == 1).all()
        raise InputError(
            f"{name}: expected one label for each of {len(raw.images)} images, "
            f"found labels of the shape {_shape(labels.shape)}"
            + ("; they are one-hot, give labels.argmax(1)" if one_hot else "")
        )
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        outside = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"{name}: expected labels in 0 to {MOST_CLASSES - 1}, found {outside}")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
