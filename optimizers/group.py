"""Several searches that advance together: each is what it would be alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from ggl.optimizers.base import State, Strategy, part_of
from ggl.optimizers.residuals import Residuals

__all__ = ["Group", "Rows", "SideBySide", "SingleSearch"]

Rows: TypeAlias = Sequence[Tensor]
"""One tensor a search: latents (n, d) float64, losses (n,) or gradients (n, d)."""


class Group(ABC):
    """K searches of one strategy, asked and told together.

    What `Strategy` promises holds for each search, but rows come back in the order of asking; the group's
    latents are on its device.
    """

    needs_gradient: bool
    needs_residuals: bool = False
    latent_dim: int

    @abstractmethod
    def __len__(self) -> int:
        """Return how many searches there are."""

    @abstractmethod
    def sizes(self) -> list[int]:
        """Return how many candidates each search asks for next, 0 where it has stopped."""

    @abstractmethod
    def ask(self, chosen: Sequence[int]) -> list[Tensor]:
        """Return the next generation of each chosen search, in ascending order."""

    @abstractmethod
    def tell(
        self,
        z: Rows,
        losses: Rows,
        gradients: Rows | None = None,
        residuals: Sequence[Residuals] | None = None,
    ) -> None:
        """Take the losses of what was asked, one entry a chosen search, in the order of asking."""

    def choices(self, chosen: Sequence[int]) -> list[tuple[Tensor, float] | None]:
        """Return what each chosen search would end with, and its loss, where that is not the least it met."""
        return [None] * len(chosen)

    @abstractmethod
    def state_dict(self) -> State:
        """Return everything that resumed searches need."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Continue searches of the same settings from `state_dict`, bit for bit."""


class SideBySide(Group):
    """Single strategies, each with its own object."""

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        self.strategies = list(strategies)
        self.needs_gradient = self.strategies[0].needs_gradient
        self.needs_residuals = self.strategies[0].needs_residuals
        self.latent_dim = self.strategies[0].latent_dim
        self._chosen: list[int] = []

    def __len__(self) -> int:
        return len(self.strategies)

    def sizes(self) -> list[int]:
        """Return each strategy's batch size, 0 where it has stopped."""
        return [0 if strategy.stopped else strategy.batch_size for strategy in self.strategies]

    def ask(self, chosen: Sequence[int]) -> list[Tensor]:
        """Ask each chosen strategy."""
        self._chosen = list(chosen)
        return [self.strategies[k].ask() for k in chosen]

    def tell(
        self,
        z: Rows,
        losses: Rows,
        gradients: Rows | None = None,
        residuals: Sequence[Residuals] | None = None,
    ) -> None:
        """Tell each strategy that was asked."""
        for i, k in enumerate(self._chosen):
            gradient = None if gradients is None else gradients[i]
            self.strategies[k].tell(z[i], losses[i], gradient, None if residuals is None else residuals[i])

    def choices(self, chosen: Sequence[int]) -> list[tuple[Tensor, float] | None]:
        """Return each chosen strategy's own."""
        return [self.strategies[k].choice for k in chosen]

    def state_dict(self) -> State:
        """Return the strategies' states, their names preceded by the search's number."""
        return {f"{k}.{name}": t for k, s in enumerate(self.strategies) for name, t in s.state_dict().items()}

    def load_state_dict(self, state: State) -> None:
        """Load each strategy's own part."""
        for k, strategy in enumerate(self.strategies):
            strategy.load_state_dict(part_of(state, f"{k}."))


class SingleSearch(Strategy):
    """A strategy that is a group of one search."""

    def __init__(self, searches: Group) -> None:
        super().__init__(searches.latent_dim, searches.sizes()[0])
        self._searches, self.needs_residuals = searches, searches.needs_residuals

    def _ask(self) -> Tensor:
        z = self._searches.ask([0])[0]
        self._follow()
        return z

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        self._searches.tell([z], [loss], None, [self.residuals] if self.needs_residuals else None)
        self._follow()

    def _follow(self) -> None:
        self.stopped = self._searches.sizes() == [0]

    def _state(self) -> State:
        return self._searches.state_dict()

    def _load(self, state: State) -> None:
        self._searches.load_state_dict(state)
        self._follow()
