"""Write the embedded held-out images: `python -m ggl.benchmarks.tools.make_heldout fashion-mnist.npz`.

1,000 images of Fashion-MNIST's test split, 100 a class, chosen by a fixed seed; the same input gives
the same bytes.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggl.base.files import write_atomically
from ggl.base.random import numpy_stream

__all__ = ["choose_rows", "write_heldout"]

OUT = Path(__file__).resolve().parents[2] / "ggl" / "datasets" / "assets" / "fashion-mnist-heldout.npz"
PER_CLASS = 100
SEED = 0


def choose_rows(labels: NDArray[Any], per_class: int, seed: int) -> NDArray[Any]:
    """Return the rows of `per_class` examples of every class: one of each class, then again.

    Args:
        labels: (n,) integers.
        per_class: how many rows of each class, without repetition.
        seed: names the choice.

    Raises:
        ValueError: a class has fewer than `per_class` examples.
    """
    random = numpy_stream(seed, "heldout")
    by_class = [
        random.choice(np.flatnonzero(labels == label), per_class, replace=False)
        for label in np.unique(labels)
    ]
    return np.stack(by_class, axis=1).reshape(-1)


def write_heldout(data: Path, out: Path) -> None:
    """Write the chosen test images of `data` (`test_images`, `test_labels`) to the npz file `out`."""
    with np.load(data, allow_pickle=False) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    rows = choose_rows(labels, PER_CLASS, SEED)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images[rows], labels=labels[rows])
    write_atomically(out, buffer.getvalue())


def main() -> None:
    """Write the package's asset and print its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="npz file with test_images and test_labels")
    write_heldout(parser.parse_args().data, OUT)
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
