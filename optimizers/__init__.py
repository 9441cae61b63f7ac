"""The strategy layer: ask/tell searchers."""

from ggl.optimizers.base import Strategy
from ggl.optimizers.catalog import load_strategy, register_strategy, strategies

__all__ = ["Strategy", "load_strategy", "register_strategy", "strategies"]
