"""Where named images come from: the embedded set, and torchvision's data sets."""

import pickle
from importlib.resources import as_file, files
from typing import Any, NamedTuple

import numpy as np

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.datasets.arrays import RawImages, read_npz

__all__ = [
    "HELDOUT",
    "TORCHVISION",
    "read_heldout",
    "read_torchvision",
]

HELDOUT = "fashion-mnist-heldout"


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
