"""What can be proved of a release: how far a private image can move it, and the noise that hides it."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Mechanism", "Noise", "Release", "noise_on"]

Noise: TypeAlias = Literal["gaussian", "laplace"]


@dataclass(frozen=True)
class Release:
    """What a client shares, once, as far as a proof depends on it.

    Attributes:
        layers: parameter tensors of the shared gradient.
        batch: images behind it.
        progress: how much of training is done, from 0 to below 1.
    """

    layers: int
    batch: int = 1
    progress: float = 0.0


@dataclass(frozen=True)
class Mechanism:
    """A signal within a ball, and independent noise on every coordinate of it.

    Attributes:
        noise: its distribution.
        sensitivity: the ball's radius, in L2 norm: how far the signal can lie from a center that does not
            depend on the private image. Two images' signals are up to twice as far apart.
        scale: the noise's: a standard deviation, or Laplace's b.
        by_example: whether the ball is of one example's part, so that leaving it out of its batch moves the
            signal by no more than the radius; of a batch clipped as a whole it may be twice that.
    """

    noise: Noise
    sensitivity: float
    scale: float
    by_example: bool = False


def noise_on(signal: float, noise: Noise, scale: float, *, by_example: bool = False) -> Mechanism | None:
    """Return the mechanism of noise on a signal of at most an L2 norm; None where either proves nothing."""
    known = scale > 0 and math.isfinite(signal)
    return Mechanism(noise, signal, scale, by_example) if known else None
