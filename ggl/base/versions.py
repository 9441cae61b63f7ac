"""The versions that a figure depends on."""

import platform
import sys
from importlib.metadata import version

from ggl.base.distribution import own_version

__all__ = ["PACKAGES", "versions"]

PACKAGES = ("torch", "torchvision", "numpy", "cma")


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    return {
        "python": platform.python_version(),
        "platform": sys.platform,
        "ggl": own_version(),
        **{p: version(p) for p in PACKAGES},
    }
