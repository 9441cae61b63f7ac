"""Images for commands without a prior: of one square size, which the victim takes."""

from ggl.base.errors import InputError
from ggl.datasets.loading import Dataset, load_dataset

__all__ = ["load_square"]


def load_square(source: str, split: str, fit: str | None, image_size: int | None) -> Dataset:
    """Load images, brought to `image_size` pixels a side by `fit`; in color where one of them is.

    Raises:
        InputError: as `load_dataset`, or the images are not square, or not of that size and no fit is given.
    """
    if fit is not None and image_size is None:
        raise InputError(f"--fit {fit}: expected the size to fit to, give --image-size")
    shape = None if fit is None or image_size is None else (None, image_size, image_size)
    data = load_dataset(source, image_shape=shape, fit=fit, split=split)
    height, width = data.images.shape[2:]
    size = image_size or height
    if (height, width) != (size, size):
        wanted = "square images" if image_size is None else f"images of {size}x{size} pixels"
        raise InputError(
            f"{source}: expected {wanted}, found {height}x{width} pixels; "
            "give --image-size with --fit pad, resize or center-crop"
        )
    return data
