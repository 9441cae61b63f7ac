"""Many image files as one tensor: each is brought to its shape as it is read, what was unusual is counted."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from ggl.base.errors import InputError
from ggl.datasets.fit import fit_images
from ggl.datasets.folders import listed
from ggl.datasets.image_files import Picture, read_image

__all__ = ["read_files"]


def read_files(
    paths: Sequence[Path], image_shape: tuple[int | None, int, int] | None, fit: str | None
) -> tuple[Float32[Tensor, "n channels height width"], list[str]]:
    """Return the images of files, in [0, 1], and a sentence on every kind of unusual ones.

    With a fit each image is fitted before the next one is read, so that no more than one is held at its own
    size. Where some are in color, grey ones become RGB too.

    Raises:
        InputError: a file cannot be read or fitted, or without a fit they differ in size or color.
    """
    images: list[Tensor] = []
    pictures: list[Picture] = []
    for path in paths:
        picture = read_image(path)
        image = picture.pixels
        if image_shape is not None and fit is not None:
            image = _fitted(path, image, image_shape, fit)
        elif images and image.shape != images[0].shape:
            raise InputError(
                f"{path}: expected {_size(images[0])} as {paths[0].name} has, found {_size(image)}; "
                "images of several sizes or color modes need --fit resize, center-crop or pad"
            )
        images.append(image)
        pictures.append(picture._replace(pixels=image.new_empty(0, 0, 0)))
    most = max(len(image) for image in images)
    return torch.stack([image.expand(most, -1, -1) for image in images]), _remarks(paths, pictures)


def _fitted(path: Path, image: Tensor, image_shape: tuple[int | None, int, int], fit: str) -> Tensor:
    channels, height, width = image_shape
    shape = (len(image) if channels is None else channels, height, width)
    try:
        return fit_images(image[None], shape, fit)[0]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _size(image: Tensor) -> str:
    channels, height, width = image.shape
    return f"{height}x{width} {'grey' if channels == 1 else 'RGB'}"


def _remarks(paths: Sequence[Path], pictures: Sequence[Picture]) -> list[str]:
    several = [p.name for p, picture in zip(paths, pictures, strict=True) if picture.frames > 1]
    clear = [p.name for p, picture in zip(paths, pictures, strict=True) if picture.transparent]
    deepest = [picture.deepest for picture in pictures if picture.deepest is not None]
    return [
        *([f"{len(several)} files of several frames, the first taken: {listed(several)}"] if several else []),
        *([f"{len(clear)} images with transparent pixels, put on white: {listed(clear)}"] if clear else []),
        *(
            [f"{len(deepest)} images of 16 bits: 65535 is white, the largest value found is {max(deepest)}"]
            if deepest
            else []
        ),
    ]
