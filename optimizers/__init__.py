"""The strategy layer: ask/tell searchers."""

from ggl.optimizers.base import Strategy
from ggl.optimizers.catalog import load_group, load_strategy, register_strategy, strategies
from ggl.optimizers.group import Group, SideBySide

__all__ = [
    "Group",
    "SideBySide",
    "Strategy",
    "load_group",
    "load_strategy",
    "register_strategy",
    "strategies",
]
