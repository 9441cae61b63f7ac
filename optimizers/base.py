"""The contract of a strategy: an ask/tell searcher over standard-normal coordinates."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ggl.base.errors import CheckpointError, InputError
from ggl.optimizers.residuals import Residuals

__all__ = ["State", "Strategy", "check_state", "finite_losses", "part_of"]

State: TypeAlias = dict[str, Tensor]
"""A strategy's state: tensors alone, so that a checkpoint is a plain weights file."""


class Strategy(ABC):
    """A searcher that minimizes, one whole generation at a time, and never calls the objective.

    A subclass writes `_ask`, `_tell`, `_state` and `_load`. Latents are float64 on the CPU; a group's are on
    its device.

    Examples:
        >>> class Wander(ggl.Strategy):
        ...     def __init__(self, latent_dim, *, budget, seed):
        ...         super().__init__(latent_dim, batch_size=4)
        ...         self.random = torch.Generator().manual_seed(seed)
        ...     def _ask(self):
        ...         return torch.randn(4, self.latent_dim, generator=self.random, dtype=torch.float64)
        ...     def _tell(self, z, loss, gradient): ...
        ...     def _state(self):
        ...         return {"random": self.random.get_state()}
        ...     def _load(self, state):
        ...         self.random.set_state(state["random"])
        >>> Wander(8, budget=100, seed=0).ask().shape
        torch.Size([4, 8])
    """

    needs_gradient: ClassVar[bool] = False
    """Whether `tell` wants the loss's gradient beside it."""

    needs_residuals: bool = False
    """Whether `tell` wants what the loss is the sum of squares of; it is in `residuals` then."""

    residuals: Residuals
    """Of the generation that was told last, its rows in the order of asking, float64 on the CPU."""

    choice: tuple[Tensor, float] | None = None
    """The candidate (d,) that the search would end with, and its loss, where that is not the least met."""

    anytime: bool = True
    """Whether a search's course does not depend on its budget: a longer one begins as a shorter one."""

    initial: int | None = None
    """Evaluations of a first design, after which each costs the more the more was told; None of others."""

    batch_size: int
    """Candidates of the next generation; may change from one generation to the next."""

    stopped: bool = False
    """Whether the search has ended by its own criteria: it may still be asked, but has nothing to gain."""

    def __init__(self, latent_dim: int, batch_size: int) -> None:
        if latent_dim < 1:
            raise InputError(f"expected a latent dimension of at least 1, found {latent_dim}")
        if batch_size < 1:
            raise InputError(f"expected at least 1 candidate a generation, found {batch_size}")
        self.latent_dim, self.batch_size = latent_dim, batch_size
        self._asked: Tensor | None = None

    def ask(self) -> Float[Tensor, "n d"]:
        """Return the next generation, (batch_size, latent_dim)."""
        if self._asked is not None:
            raise InputError("asked twice: tell the losses of the last generation first")
        self._asked = self._ask()
        return self._asked.clone()

    def tell(
        self,
        z: Float[Tensor, "n d"],
        loss: Float[Tensor, " n"],
        gradient: Float[Tensor, "n d"] | None = None,
        residuals: Residuals | None = None,
    ) -> None:
        """Take the losses of the generation that was asked, its rows in any order.

        A loss that is not finite counts as worse than every finite one.

        Raises:
            InputError: not the generation that was asked, or no gradient or residuals where they are needed.
        """
        if self._asked is None:
            raise InputError("told before asked: ask for a generation first")
        if self.needs_gradient and gradient is None:
            raise InputError(f"{type(self).__name__} needs the gradient of every loss")
        order = _rows_of(self._asked, z.detach().to("cpu", torch.float64))
        loss = finite_losses(loss.detach().to("cpu", torch.float64))[order]
        if self.needs_residuals:
            if residuals is None:
                raise InputError(f"{type(self).__name__} needs the residuals of every candidate")
            self.residuals = residuals.sorted(order)
        if gradient is not None:
            gradient = gradient.detach().to("cpu", torch.float64).nan_to_num(0.0, 0.0, 0.0)[order]
        self._tell(self._asked, loss, gradient)
        self._asked = None

    def state_dict(self) -> State:
        """Return everything that a resumed search needs, random state included.

        Raises:
            InputError: a generation was asked and not yet told.
        """
        if self._asked is not None:
            raise InputError("a strategy is saved between generations: tell the last one first")
        return self._state()

    def load_state_dict(self, state: State) -> None:
        """Continue a strategy of the same settings from `state_dict`, bit for bit."""
        self._load(state)
        self._asked = None

    @abstractmethod
    def _ask(self) -> Tensor: ...

    @abstractmethod
    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None: ...

    @abstractmethod
    def _state(self) -> State: ...

    @abstractmethod
    def _load(self, state: State) -> None: ...


def _rows_of(asked: Tensor, told: Tensor) -> Tensor:
    """Return, for each row of `asked`, where it stands in `told`."""
    if told.shape != asked.shape:
        raise InputError(f"expected a generation of {tuple(asked.shape)}, found {tuple(told.shape)}")
    if torch.equal(asked, told):
        return torch.arange(len(asked))
    order = _sort_rows(told)[torch.argsort(_sort_rows(asked))]
    if not torch.equal(told[order], asked):
        raise InputError("told another generation than was asked: return its rows unchanged")
    return order


def _sort_rows(rows: Tensor) -> Tensor:
    """Return the order that sorts rows lexicographically."""
    place: Tensor = torch.unique(rows, dim=0, return_inverse=True)[1]
    return place.argsort(stable=True)


def check_state(state: State, own: State) -> None:
    """Raise `CheckpointError` unless a state has one's own names, shapes and types of tensors."""
    for name in sorted(state.keys() | own.keys()):
        found, expected = state.get(name), own.get(name)
        if (
            found is None
            or expected is None
            or (found.shape, found.dtype) != (expected.shape, expected.dtype)
        ):
            raise CheckpointError(
                f"a saved search: expected {_describe(expected)} as {name!r}, found {_describe(found)}; "
                "resume it with the settings it was saved with, or start anew"
            )


def part_of(state: Mapping[str, Tensor], prefix: str) -> State:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def _describe(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def finite_losses(loss: Tensor) -> Tensor:
    """Return losses (..., n) of which those that are not finite are worse than every finite one."""
    fine = torch.isfinite(loss)
    worst = torch.where(fine, loss, -torch.inf).amax(-1, keepdim=True)
    worst = torch.where(torch.isfinite(worst), worst, 0.0)
    return torch.where(fine, loss, worst + worst.abs().clamp_min(1.0))
