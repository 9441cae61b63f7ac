"""Random streams: every draw comes from a generator that a seed and a name define."""

import hashlib

import numpy as np
import torch

__all__ = ["numpy_stream", "stream", "stream_seed"]


def stream_seed(seed: int, *names: object) -> int:
    """Return the 63-bit seed of the stream that `seed` and `names` define.

    Streams of different names are independent, and a stream does not move when others are added.
    """
    text = repr([seed, *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *names: object) -> torch.Generator:
    """Return a CPU generator for the named stream of `seed`."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))


def numpy_stream(seed: int, *names: object) -> np.random.Generator:
    """Return a NumPy generator for the named stream of `seed`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))
