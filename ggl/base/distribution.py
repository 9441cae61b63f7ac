"""The project as it is installed: its name among distributions, and how what it lacks is installed."""

import re
from importlib.metadata import requires, version

__all__ = ["NAME", "install_command", "own_version"]

NAME = "ggl-audit"
"""The package index has a `ggl` that is somebody else's: nothing here ever asks for that name."""


def own_version() -> str:
    """Return this project's version."""
    return version(NAME)


def install_command(*packages: str) -> str:
    """Return the command that installs optional packages, each by its own name and the version needed.

    >>> install_command("lpips")
    'pip install "lpips>=0.1.4"'
    """
    needed = {}
    for requirement in requires(NAME) or []:
        package, bound = re.fullmatch(r"([\w.-]+)([^;]*).*", requirement).groups()  # type: ignore[union-attr]
        needed[package] = bound.strip()
    return " ".join(["pip install", *(f'"{package}{needed[package]}"' for package in packages)])
