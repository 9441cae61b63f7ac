"""A cell of the comparison of strategies, and the rows of its searches."""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Key", "Row", "StudyCell"]

Key: TypeAlias = tuple[str, str, str, int]
"""Victim, defense, strategy with its latent rule, budget."""


@dataclass(frozen=True)
class Row:
    """What one search had found within one budget."""

    victim: str
    defense: str
    strategy: str
    budget: int
    image: int
    seed: int
    loss: float
    psnr: float
    rank: int
    seconds: float

    @property
    def key(self) -> Key:
        """Return what the row shares with the other images and seeds."""
        return self.victim, self.defense, self.strategy, self.budget


@dataclass(frozen=True)
class StudyCell:
    """One strategy against one victim and defense, scored at each of some budgets, the last the longest."""

    victim: str
    defense: str
    strategy: str
    budgets: tuple[int, ...]
    latents: str | None = None

    @property
    def label(self) -> str:
        """Return the strategy with its latent rule, where that is not the prior's own."""
        return f"{self.strategy}, {self.latents}" if self.latents else self.strategy

    @property
    def keys(self) -> list[Key]:
        """Return the keys of the cell's rows."""
        return [(self.victim, self.defense, self.label, budget) for budget in self.budgets]
