"""Private images and decoys: a checked set of labeled images, brought to the shape that a prior gives."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.datasets.fit import fit_images
from ggl.datasets.sources import (
    HELDOUT,
    TORCHVISION,
    RawImages,
    read_folder,
    read_heldout,
    read_npz,
    read_torchvision,
)

__all__ = ["Dataset", "load_dataset"]

MOST_CLASSES = 1_000_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labeled images.

    Attributes:
        name: the specification it was loaded by.
        images: (n, c, h, w) float32 in [0, 1].
        labels: (n,) int64 in [0, num_classes).
        num_classes: how many classes there are, whether or not each has an image.

    Raises:
        InputError: there is no image, or a value is outside its range.
    """

    name: str
    images: Float32[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]
    num_classes: int

    def __post_init__(self) -> None:
        if not len(self.images):
            raise InputError(f"{self.name}: expected at least one image, found none")
        low, high = float(self.images.min()), float(self.images.max())
        if not 0 <= low <= high <= 1:
            raise InputError(f"{self.name}: expected pixels in 0 to 1, found {low:g} to {high:g}")
        outside = (self.labels < 0) | (self.labels >= self.num_classes)
        if outside.any():
            index = int(outside.nonzero()[0])
            raise InputError(
                f"{self.name}: expected labels in 0 to {self.num_classes - 1}, "
                f"found {int(self.labels[index])} at image {index}"
            )


def load_dataset(
    spec: str | Path,
    *,
    image_shape: tuple[int, int, int] | None = None,
    fit: str | None = None,
    split: str = "test",
) -> Dataset:
    """Load labeled images.

    Args:
        spec: `fashion-mnist-heldout` (embedded), the path of an `.npz` file (arrays `images` and
            `labels`, or `{split}_images` and `{split}_labels` as MedMNIST has them; n x h x w or
            n x h x w x c, uint8 or float in [0, 1]), the path of a folder with one sub-folder of
            images per class, or `torchvision:NAME:ROOT` for files that are under ROOT already.
        image_shape: (c, h, w) that the images must have: the prior's. None takes them as they are.
        fit: what to do with images of another shape: "pad" with zeros, "resize" by area, or
            "center-crop"; each also turns grey into RGB and back. None refuses them.
        split: which images to take where the source has several splits.

    Raises:
        InputError: the specification, the files, or the images' shape is not as described.
    """
    name, raw = str(spec), _read(spec, split)
    images, labels = _images(name, raw), _labels(name, raw)
    num_classes = int(labels.max()) + 1 if raw.num_classes is None else raw.num_classes
    dataset = Dataset(name, images, labels, num_classes)
    return replace(dataset, images=_in_shape(name, images, image_shape, fit))


def _read(spec: str | Path, split: str) -> RawImages:
    text, path = str(spec), Path(spec).expanduser()
    if text == HELDOUT:
        return read_heldout(split)
    if text.startswith("torchvision:"):
        return read_torchvision(*_torchvision_parts(text), split)
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".npz":
        return read_npz(path, split)
    if path.exists():
        raise InputError(f"{text}: expected an .npz file or a folder of images, found another kind of file")
    if isinstance(spec, Path) or not re.fullmatch("[A-Za-z0-9_-]+", text):
        raise InputError(f"{text}: expected an .npz file or a folder of images, found no such path")
    raise unknown_name("data set", text, [HELDOUT, *(f"torchvision:{name}:ROOT" for name in TORCHVISION)])


def _torchvision_parts(text: str) -> tuple[str, str]:
    _, name, root = (*text.split(":", 2), "")[:3]
    if not root:
        raise InputError(
            f"{text}: expected torchvision:NAME:ROOT, ROOT being the folder that holds its files"
        )
    return name, root


def _images(name: str, raw: RawImages) -> Float32[Tensor, "n channels height width"]:
    images: NDArray[Any] = raw.images
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(f"{name}: expected images as uint8 or float in 0 to 1, found {images.dtype}")
    channels_last = images[..., None] if images.ndim == 3 else images
    if channels_last.ndim != 4 or channels_last.shape[-1] not in (1, 3) or not channels_last.size:
        raise InputError(
            f"{name}: expected images as n x h x w or n x h x w x c with 1 or 3 channels, "
            f"found the shape {_shape(images.shape)}"
        )
    scale = 255 if images.dtype == np.uint8 else 1
    pixels = np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2), dtype=np.float32)
    return torch.from_numpy(pixels).div_(scale)


def _labels(name: str, raw: RawImages) -> Int64[Tensor, " n"]:
    labels: NDArray[Any] = raw.labels
    if labels.dtype.kind not in "iu":
        raise InputError(f"{name}: expected integer labels, found {labels.dtype}")
    if labels.shape not in ((len(raw.images),), (len(raw.images), 1)):
        raise InputError(
            f"{name}: expected one label for each of {len(raw.images)} images, "
            f"found labels of the shape {_shape(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        outside = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"{name}: expected labels in 0 to {MOST_CLASSES - 1}, found {outside}")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def _in_shape(
    name: str,
    images: Float32[Tensor, "n channels height width"],
    image_shape: tuple[int, int, int] | None,
    fit: str | None,
) -> Float32[Tensor, "n out_channels out_height out_width"]:
    if image_shape is None and fit is not None:
        raise InputError(f"{name}: fit {fit!r} needs an image_shape to fit to, found none")
    if image_shape is None or (fit is None and images.shape[1:] == image_shape):
        return images
    if fit is None:
        raise InputError(
            f"{name}: the images are {_shape(images.shape[1:])} and the prior gives {_shape(image_shape)}; "
            "use fit 'pad', 'resize' or 'center-crop'"
        )
    return fit_images(images, image_shape, fit)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
