"""Private images and decoys: a checked set of labeled images, brought to the shape that a prior gives."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.datasets.arrays import RawImages, images_of, labels_of, read_npz
from ggl.datasets.csv_files import find_listed
from ggl.datasets.fit import fit_images
from ggl.datasets.folders import LabeledFiles, find_images
from ggl.datasets.photographs import read_files
from ggl.datasets.sources import HELDOUT, TORCHVISION, read_heldout, read_torchvision

__all__ = ["Dataset", "DatasetWarning", "load_dataset"]

FEWEST_CLASSES = 2
ADVICE = "use fit 'pad', 'resize' or 'center-crop' (--fit)"


class DatasetWarning(UserWarning):
    """Something in a source of images was passed over, or taken for granted."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labeled images.

    Attributes:
        name: the specification it was loaded by.
        images: (n, c, h, w) float32 in [0, 1].
        labels: (n,) int64 in [0, num_classes).
        num_classes: how many classes there are, whether or not each has an image; loaded ones have 2 at
            least, since a victim of one class has no gradient.
        class_names: by which labels were counted; None where the source gives integers, () where it knows
            no classes and every label is 0.

    Raises:
        InputError: there is no image, or a value is outside its range.

    Examples:
        >>> data = ggl.Dataset("mine", torch.rand(4, 1, 32, 32), torch.tensor([0, 1, 1, 2]), num_classes=3)
        >>> data.images.shape
        torch.Size([4, 1, 32, 32])
    """

    name: str
    images: Float32[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]
    num_classes: int
    class_names: tuple[str, ...] | None = None

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
    image_shape: tuple[int | None, int, int] | None = None,
    fit: str | None = None,
    split: str = "test",
) -> Dataset:
    """Load labeled images.

    Args:
        spec: `fashion-mnist-heldout` (embedded), the path of an `.npz` file (arrays `images` and
            `labels`, or `{split}_images` and `{split}_labels` as MedMNIST has them; n x h x w, n x h x w x c
            or n x c x h x w, uint8 or float in [0, 1]), the path of a folder with one sub-folder of images
            per class or of images without classes, of a `.csv` file of paths and labels, or
            `torchvision:NAME:ROOT` for files that are under ROOT already.
        image_shape: (c, h, w) that the images must have: the prior's. Without c, as many channels as they
            have: 3 where one is in color. None takes them as they are.
        fit: what to do with images of another shape, each as it is read: "pad" with zeros, "resize" by area,
            or "center-crop"; each also turns grey into RGB and back. None refuses them.
        split: which images to take where the source has several splits.

    Warns:
        DatasetWarning: files were passed over, or something about them was taken for granted.

    Raises:
        InputError: the specification, the files, or the images' shape is not as described.

    Examples:
        >>> data = ggl.load_dataset("fashion-mnist-heldout")
        >>> data.images.shape, data.num_classes
        (torch.Size([1000, 1, 32, 32]), 10)
    """
    name, raw = str(spec), _read(spec, split)
    if image_shape is None and fit is not None:
        raise InputError(f"{name}: fit {fit!r} needs an image_shape to fit to, found none")
    class_names = None
    if isinstance(raw, LabeledFiles):
        images, remarks = read_files(raw.paths, image_shape, fit)
        for remark in (*raw.remarks, *(f"{name}: {remark}" for remark in remarks)):
            warnings.warn(remark, DatasetWarning, stacklevel=2)
        labels = labels_of(name, RawImages(images.numpy(), np.array(raw.labels)))
        num_classes, class_names = raw.num_classes, raw.class_names
    else:
        images, labels = images_of(name, raw), labels_of(name, raw)
        if image_shape is not None and fit is not None:
            images = fit_images(images, _filled(image_shape, images), fit)
        num_classes = int(labels.max()) + 1 if raw.num_classes is None else raw.num_classes
    if image_shape is not None and images.shape[1:] != _filled(image_shape, images):
        raise InputError(
            f"{name}: the images are {_text(images.shape[1:])} and the prior gives "
            f"{_text(_filled(image_shape, images))}; {ADVICE}"
        )
    return Dataset(name, images, labels, max(num_classes, FEWEST_CLASSES), class_names)


def _read(spec: str | Path, split: str) -> RawImages | LabeledFiles:
    text, path = str(spec), Path(spec).expanduser()
    if text == HELDOUT:
        return read_heldout(split)
    if text.startswith("torchvision:"):
        return read_torchvision(*_torchvision_parts(text), split)
    if path.is_dir():
        return find_images(path)
    if path.suffix == ".npz":
        return read_npz(path, split)
    expected = f"{text}: expected a folder of images, an .npz or a .csv file, found"
    if path.exists():
        if path.suffix.lower() == ".csv":
            return find_listed(path, split)
        raise InputError(f"{expected} another kind of file")
    if isinstance(spec, Path) or not re.fullmatch("[A-Za-z0-9_-]+", text):
        raise InputError(f"{expected} no such path")
    known = [HELDOUT, *(f"torchvision:{name}:ROOT" for name in TORCHVISION)]
    raise unknown_name("data set", text, known, "no file or folder of that name is here")


def _torchvision_parts(text: str) -> tuple[str, str]:
    _, name, root = (*text.split(":", 2), "")[:3]
    if not root:
        raise InputError(
            f"{text}: expected torchvision:NAME:ROOT, ROOT being the folder that holds its files"
        )
    return name, root


def _filled(shape: tuple[int | None, int, int], images: Tensor) -> tuple[int, int, int]:
    channels, height, width = shape
    return (images.shape[1] if channels is None else channels, height, width)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
