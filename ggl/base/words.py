"""Names as a sentence lists them."""

from collections.abc import Iterable

__all__ = ["listed"]


def listed(names: Iterable[object]) -> str:
    """Return names with commas and an "and": "a, b and c".

    Raises:
        ValueError: there is none.

    Examples:
        >>> from ggl.base.words import listed
        >>> listed(["noise:0.1", "prune:0.9", "none"])
        'noise:0.1, prune:0.9 and none'
    """
    *others, last = map(str, names)
    return f"{', '.join(others)} and {last}" if others else last
