"""What a network's values are as pixels: "tanh", "sigmoid", or "low:high" for other bounds."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ggl.base.errors import InputError

__all__ = ["RANGES", "Range", "read_range"]

RANGES = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}
"""The values of the functions that generators end with."""


@dataclass(frozen=True)
class Range:
    """Values from `low`, black, to `high`, white.

    Attributes:
        name: as it was asked for.
        low: below it, values are cut.
        high: above it, values are cut.
    """

    name: str
    low: float
    high: float

    def to_unit(self, values: Tensor) -> Tensor:
        """Return values as pixels in [0, 1]; where they are cut the gradient is zero."""
        pixels = values if (self.low, self.high) == (0, 1) else (values - self.low) / (self.high - self.low)
        return pixels.clamp(0, 1)

    def function(self) -> nn.Module:
        """Return what a network ends with whose values are these; no function for bounds of one's own."""
        return {"tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}.get(self.name, nn.Identity())


def read_range(text: str) -> Range:
    """Return the range of "tanh" (-1 to 1), "sigmoid" (0 to 1), or "low:high", such as "0:255".

    Raises:
        InputError: another text, or bounds in the wrong order.

    >>> read_range("0:255")
    Range(name='0:255', low=0.0, high=255.0)
    """
    if text in RANGES:
        return Range(text, *RANGES[text])
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise InputError(f"range: expected tanh, sigmoid or LOW:HIGH, found {text!r}") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"range: expected a lower bound, then a higher one, found {text!r}")
    return Range(text, low, high)
