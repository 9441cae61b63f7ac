from .base import Strategy
from .catalog import register_strategy, strategies
from .group import Group, SideBySide
from .loading import load_group, load_strategy

__all__ = [
    "Group",
    "SideBySide",
    "Strategy",
    "load_group",
    "load_strategy",
    "register_strategy",
    "strategies",
]
