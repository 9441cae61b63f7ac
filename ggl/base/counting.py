"""How long work reports that it is counted."""

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Count"]

Count: TypeAlias = Callable[[str, int, int], None]
"""Called with a stage's title, what is done and what there is to do."""
