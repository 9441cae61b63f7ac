"""Work cut into chunks that fit: a chunk that runs out of memory is halved, and the work goes on."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Chunks", "overlaps", "runs_within"]

CHUNK_IMAGES = {"cpu": 64, "cuda": 1024}
"""How many images a chunk starts with, by device: on CPUs what caches hold, on GPUs what fills them."""


class Chunks:
    """The chunk size of one kind of work, in images; it only ever shrinks."""

    def __init__(self, device: torch.device, size: int | None = None) -> None:
        self.size = size or CHUNK_IMAGES.get(device.type, CHUNK_IMAGES["cpu"])

    def map(self, total: int, images_each: int, call: Callable[[slice], Tensor]) -> Tensor:
        """Return the concatenated results of `call` on the rows 0 to `total`, a chunk at a time.

        A chunk holds `size` images, that is `size // images_each` rows and at least one.
        """
        parts: list[Tensor] = []
        done = 0
        while done < total:
            rows = slice(done, min(total, done + max(1, self.size // images_each)))
            try:
                parts.append(call(rows))
            except RuntimeError as error:
                if rows.stop - rows.start == 1 or not _is_out_of_memory(error):
                    raise
                self.size = max(images_each, (rows.stop - rows.start) * images_each // 2)
                continue
            done = rows.stop
        return torch.cat(parts)


def overlaps(counts: Sequence[int], rows: slice) -> tuple[list[int], list[int]]:
    """Return which groups, counts[k] rows each in a row, the rows touch, and how many rows of each."""
    chosen, shares, start = [], [], 0
    for k, count in enumerate(counts):
        share = min(start + count, rows.stop) - max(start, rows.start)
        if share > 0:
            chosen.append(k)
            shares.append(share)
        start += count
    return chosen, shares


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text
    )


def runs_within(sizes: Sequence[int], most: int) -> list[slice]:
    """Cut a row of items into runs whose sizes add up to at most `most`; a larger item is a run of its own.

    >>> runs_within([3, 4, 9, 1], 8)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    starts, held = list[int](), 0
    for k, size in enumerate(sizes):
        held += size
        if not starts or held > most:
            starts.append(k)
            held = size
    return [slice(a, b) for a, b in itertools.pairwise([*starts, len(sizes)])]
