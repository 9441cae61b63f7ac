"""Where private images come from: the embedded set, an npz file, a folder, torchvision's data sets.

Every reader returns `RawImages`, as the source holds them; `ggl.datasets` checks and converts.
"""

import pickle
import re
import zipfile
import zlib
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name

__all__ = [
    "HELDOUT",
    "TORCHVISION",
    "RawImages",
    "read_folder",
    "read_heldout",
    "read_npz",
    "read_torchvision",
]

HELDOUT = "fashion-mnist-heldout"
GREY_MODES = ("1", "L", "LA")
COLOR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")


class RawImages(NamedTuple):
    """Images (n, h, w) or (n, h, w, c) and labels as a source holds them; the class count where known."""

    images: NDArray[Any]
    labels: NDArray[Any]
    num_classes: int | None = None


class TorchvisionSet(NamedTuple):
    """How a torchvision data set names its splits, `train=True` or `split="train"`, and its class count."""

    split_argument: str
    num_classes: int


TORCHVISION = {
    "CIFAR10": TorchvisionSet("train", 10),
    "CIFAR100": TorchvisionSet("train", 100),
    "FashionMNIST": TorchvisionSet("train", 10),
    "KMNIST": TorchvisionSet("train", 10),
    "MNIST": TorchvisionSet("train", 10),
    "STL10": TorchvisionSet("split", 10),
    "SVHN": TorchvisionSet("split", 10),
}


def read_heldout(split: str) -> RawImages:
    """Read the 1,000 embedded Fashion-MNIST test images, 100 a class, zero-padded from 28 to 32 px."""
    if split != "test":
        raise InputError(f"{HELDOUT}: expected the split 'test', the only one it has, found {split!r}")
    with as_file(files("ggl.datasets") / "assets" / f"{HELDOUT}.npz") as path:
        images, labels, _ = read_npz(path, split)
    return RawImages(np.pad(images, ((0, 0), (2, 2), (2, 2))), labels, 10)


def read_npz(path: Path, split: str) -> RawImages:
    """Read `images` and `labels`, or else `{split}_images` and `{split}_labels`; pickles are refused."""
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            images, labels = _array_names(path, arrays.files, split)
            return RawImages(np.asarray(arrays[images]), np.asarray(arrays[labels]))
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: expected an npz file of plain arrays, but it cannot be read ({_reason(error)})"
        ) from error


def _array_names(path: Path, found: list[str], split: str) -> tuple[str, str]:
    pairs = [("images", "labels"), (f"{split}_images", f"{split}_labels")]
    for images, labels in pairs:
        if images in found and labels in found:
            return images, labels
    expected = " or ".join(f"{images!r} and {labels!r}" for images, labels in pairs)
    raise InputError(f"{path}: expected the arrays {expected}, found {', '.join(found) or 'none'}")


def read_folder(path: Path) -> RawImages:
    """Read one sub-folder of images per class; names that start with a dot are passed over.

    Labels count the sorted names from 0, or are the names where every name is an integer.
    """
    folders = _children(path)
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{path}: expected one sub-folder per class, found the file {folder.name}")
    if not folders:
        raise InputError(f"{path}: expected one sub-folder of images per class, found an empty folder")
    names = [folder.name for folder in folders]
    integers = all(re.fullmatch("-?[0-9]+", name) for name in names)
    classes = [int(name) for name in names] if integers else list(range(len(names)))
    by_class = [_read_class(folder) for folder in folders]
    labels = np.repeat(np.array(classes), [len(images) for images in by_class])
    return RawImages(_stack([entry for images in by_class for entry in images]), labels, max(classes) + 1)


def _children(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise InputError(f"{path}: expected a folder, but it cannot be read ({error.strerror})") from error


def _read_class(folder: Path) -> list[tuple[Path, NDArray[Any]]]:
    images = [(path, _read_image(path)) for path in _children(folder)]
    if not images:
        raise InputError(f"{folder}: expected images of one class, found an empty folder")
    return images


def _read_image(path: Path) -> NDArray[Any]:
    try:
        with Image.open(path) as image:
            if image.mode not in (*GREY_MODES, *COLOR_MODES):
                raise InputError(f"{path}: expected an image of 8 bits a channel, found mode {image.mode}")
            return np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: expected an image, but it cannot be read ({_reason(error)})") from error


def _stack(images: list[tuple[Path, NDArray[Any]]]) -> NDArray[Any]:
    first_path, first = images[0]
    for path, image in images:
        if image.shape != first.shape:
            raise InputError(
                f"{path}: expected {_size(first)} as {first_path.name} has, found {_size(image)}; "
                "bring all images to one size and color mode first"
            )
    return np.stack([image for _, image in images])


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[0]}x{image.shape[1]} {'grey' if image.ndim == 2 else 'RGB'}"


def read_torchvision(name: str, root: str, split: str) -> RawImages:
    """Read torchvision's data set `name` from the files under `root`; nothing is downloaded."""
    if name not in TORCHVISION:
        raise unknown_name("torchvision data set", name, list(TORCHVISION))
    if split not in ("train", "test"):
        raise InputError(f"torchvision:{name}: expected the split 'train' or 'test', found {split!r}")
    split_argument, num_classes = TORCHVISION[name]
    choice: dict[str, Any] = {split_argument: split if split_argument == "split" else split == "train"}
    try:
        import torchvision  # seconds to import

        found = getattr(torchvision.datasets, name)(root, download=False, **choice)
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"torchvision:{name}: expected its files under {root!r}, but they cannot be read; "
            f"put them there, ggl does not download them ({_reason(error)})"
        ) from error
    images, labels = zip(*found, strict=True)
    return RawImages(np.stack([np.asarray(image) for image in images]), np.array(labels), num_classes)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
