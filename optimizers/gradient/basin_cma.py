"""BasinCMA: CMA-ES over the basins that a few gradient steps fall into."""

import math

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.optimizers.base import State, Strategy, check_state, part_of
from ggl.optimizers.cmaes.constants import constants
from ggl.optimizers.cmaes.strategies import CMAES
from ggl.optimizers.gradient.adam import Moments

__all__ = ["BasinCMA"]


class BasinCMA(Strategy):
    """CMA-ES whose candidates take a few Adam steps each: needs gradients; a hybrid to set beside both.

    After BasinCMA in Huh et al., Transforming and Projecting Images into Class-conditional Generative
    Networks (ECCV 2020, arXiv 2005.01703): each sample of CMA-ES is refined by `steps` steps of Adam, and
    CMA-ES is told the sample with the loss of its refined point. So step size and covariance learn where
    good basins lie, but nothing that refinement gained would last; our addition is that the mean also
    moves by the refinements of the best half, in CMA-ES's own recombination weights.
    A generation is one step of every candidate, so an update of CMA-ES costs population × (steps + 1)
    evaluations. Adam's moments start from zero with every sample.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; handed to CMA-ES.
        seed: of CMA-ES.
        sigma0: initial step size, in standard deviations of the prior.
        population: λ, candidates a generation; by default that of CMA-ES.
        steps: of Adam, a candidate; 0 is CMA-ES itself.
        learning_rate: of Adam.

    Raises:
        InputError: steps below 0, a learning rate that is not above 0, or what CMA-ES refuses.
    """

    needs_gradient = True

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        sigma0: float = 0.5,
        population: int | None = None,
        steps: int = 4,
        learning_rate: float = 0.1,
    ) -> None:
        if not (steps >= 0 and 0 < learning_rate < math.inf):
            raise InputError(
                "basin-cma: expected steps of at least 0 and a learning_rate above 0, "
                f"found {steps} and {learning_rate:g}"
            )
        self._outer = CMAES(latent_dim, budget=budget, seed=seed, sigma0=sigma0, population=population)
        super().__init__(latent_dim, self._outer.batch_size)
        self.steps, self.learning_rate = steps, learning_rate
        self._before = self._outer.state_dict()
        self._z = torch.zeros(self.batch_size, latent_dim, dtype=torch.float64)
        self._sample = self._start = self._z
        self._moments = Moments(self._z)
        self._shift = torch.zeros(latent_dim, dtype=torch.float64)
        self._weights = _recombination_weights(latent_dim, self.batch_size)

    def _ask(self) -> Tensor:
        if self._moments.count == 0:
            # CMA-ES can't be saved while it is asked: a state in between holds it as it was before.
            self._before = self._outer.state_dict()
            self._draw()
            self._z = self._start
        return self._z

    def _draw(self) -> None:
        self._sample = self._outer.ask()
        self._start = self._sample + self._shift

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:
        if gradient is None:
            raise InputError("basin-cma needs the gradient of every loss")
        if self._moments.count < self.steps:
            self._z = z - self.learning_rate * self._moments.step(gradient)
            return
        self._shift = self._shift + self._weights @ (z - self._start)[loss.argsort(stable=True)]
        self._outer.tell(self._sample, loss)
        self._moments, self.stopped = Moments(z), self._outer.stopped

    def _state(self) -> State:
        outer = self._before if self._moments.count else self._outer.state_dict()
        return self._inner() | {f"outer.{name}": tensor for name, tensor in outer.items()}

    def _inner(self) -> State:
        return {"z": self._z, "shift": self._shift, **self._moments.state()}

    def _load(self, state: State) -> None:
        prefix = "outer."
        check_state({name: t for name, t in state.items() if not name.startswith(prefix)}, self._inner())
        self._before = part_of(state, prefix)
        self._outer.load_state_dict(self._before)
        self.stopped = self._outer.stopped
        self._z, self._shift = state["z"], state["shift"]
        self._moments.load(state)
        if self._moments.count:
            self._draw()


def _recombination_weights(dim: int, population: int) -> Tensor:
    """Return the positive weights by rank, (λ,), whose sum is 1: Hansen (arXiv 1604.00772), 49 to 53."""
    weights = constants(dim, population, separable=False).by_rank(torch.device("cpu"))
    return weights.clamp_min(0.0)
