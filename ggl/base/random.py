"""Random streams: every draw comes from a generator that a seed and a name define."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import mtrand

__all__ = [
    "GlobalStreams",
    "StreamsAside",
    "global_stream",
    "global_streams_kept",
    "numpy_stream",
    "seed_global_streams",
    "stream",
    "stream_seed",
]


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


class GlobalStreams:
    """Where the global random streams stand: torch's of the CPU and of CUDA in use, NumPy's and Python's."""

    def __init__(self) -> None:
        self._torch = [generator.get_state() for generator in _torch_generators()]
        self._numpy, self._python = np.random.get_state(), random.getstate()

    def restore(self) -> None:
        """Set the streams back to where they stood."""
        for generator, state in zip(_torch_generators(), self._torch, strict=False):
            generator.set_state(state)
        np.random.set_state(self._numpy)
        random.setstate(self._python)

    def moved(self) -> frozenset[str]:
        """Return which streams stand elsewhere now, of "torch", "numpy" and "python"."""
        now = GlobalStreams()
        kept = {
            "torch": all(torch.equal(a, b) for a, b in zip(self._torch, now._torch, strict=False)),
            "numpy": all(np.array_equal(a, b) for a, b in zip(self._numpy, now._numpy, strict=True)),
            "python": self._python == now._python,
        }
        return frozenset(name for name, same in kept.items() if not same)


class StreamsAside:
    """Puts the global random streams at a seed's place, and back, many times over.

    NumPy's state takes longer to read and write than a small network's forward pass: its generator is set
    aside whole for one of this object's own.
    """

    def __init__(self) -> None:
        self._own = np.random.MT19937(0)
        self._found: tuple[list[torch.Tensor], np.random.BitGenerator, tuple[object, ...]] | None = None

    def begin(self, seed: int) -> None:
        """Set the streams aside, and seed those that stand in for them."""
        states = [generator.get_state() for generator in _torch_generators()]
        self._found = states, mtrand.get_bit_generator(), random.getstate()
        mtrand.set_bit_generator(self._own)
        seed_global_streams(seed)

    def end(self) -> None:
        """Put back the streams that were set aside, if any were."""
        if self._found is None:
            return
        states, numpy_generator, python_state = self._found
        for generator, state in zip(_torch_generators(), states, strict=False):
            generator.set_state(state)
        mtrand.set_bit_generator(numpy_generator)
        random.setstate(python_state)
        self._found = None


def seed_global_streams(seed: int) -> None:
    """Seed the global random streams, for code that draws from them."""
    for generator in _torch_generators():
        generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def global_streams_kept() -> Iterator[None]:
    """Leave the global random streams as they were found, whatever draws from them."""
    found = GlobalStreams()
    try:
        yield
    finally:
        found.restore()


@contextmanager
def global_stream(seed: int) -> Iterator[None]:
    """Have what draws from the global random streams draw by a seed; they are left as they were found."""
    with global_streams_kept():
        seed_global_streams(seed)
        yield


def _torch_generators() -> list[torch.Generator]:
    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return [torch.default_generator, *cuda]
