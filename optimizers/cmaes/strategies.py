"""CMA-ES (Hansen, arXiv 1604.00772) as single strategies; a group of them is one set of tensors."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from ggl.optimizers.cmaes.searches import BatchedCMAES
from ggl.optimizers.group import SingleSearch

__all__ = ["CMAES", "SeparableCMAES"]


class CMAES(SingleSearch):
    """CMA-ES with a full covariance matrix: the field's standard; learns correlations.

    Starts at mean 0 and stops by its own criteria (`cmaes_stopping`).

    Args:
        latent_dim: d.
        budget: objective evaluations planned; not used.
        seed: of the strategy's own random stream.
        sigma0: initial step size, in standard deviations of the prior.
        population: λ, candidates a generation; by default 4 + ⌊3 ln d⌋.

    Raises:
        InputError: a dimension below 1, a population below 3 or a sigma0 that is not above 0.
    """

    separable: ClassVar[bool] = False

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        sigma0: float = 0.5,
        population: int | None = None,
    ) -> None:
        searches = self.group(
            latent_dim,
            budget=budget,
            seeds=[seed],
            device=torch.device("cpu"),
            sigma0=sigma0,
            population=population,
        )
        super().__init__(searches)
        self.sigma0 = sigma0

    @classmethod
    def group(
        cls,
        latent_dim: int,
        *,
        budget: int,  # noqa: ARG003
        seeds: Sequence[int],
        device: torch.device,
        sigma0: float = 0.5,
        population: int | None = None,
    ) -> BatchedCMAES:
        """Return searches that advance together on `device`, one a seed; otherwise as the class."""
        return BatchedCMAES(
            latent_dim,
            seeds=seeds,
            device=device,
            sigma0=sigma0,
            population=population,
            separable=cls.separable,
        )


class SeparableCMAES(CMAES):
    """CMA-ES with a diagonal covariance matrix (sep-CMA-ES): learns faster, costs less."""

    separable = True
