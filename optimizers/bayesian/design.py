"""What both Bayesian strategies begin with: checked options, an initial design."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ggl.base.errors import InputError

__all__ = ["LARGEST_BUDGET", "best_rows", "check_options", "design_size", "normal_design"]

LARGEST_BUDGET = 5000


def check_options(
    name: str, *, budget: int, bound: float, initial: int | None, cap: int, force: bool
) -> None:
    """Refuse what a Gaussian process cannot be fitted on, or only slowly.

    Raises:
        InputError: a budget above 5,000 that is not forced; bound, initial or cap out of range.
    """
    if budget > LARGEST_BUDGET and not force:
        raise InputError(
            f"{name}: expected a budget of at most {LARGEST_BUDGET}, found {budget}: a fit's cost grows with "
            "the cube of the evaluations; take a smaller budget, cma-es, or force=1"
        )
    if not (bound > 0 and math.isfinite(bound)):
        raise InputError(f"{name}: expected bound above 0, found {bound:g}")
    if cap < 2 or (initial is not None and initial < 2):
        raise InputError(f"{name}: expected cap and initial of at least 2, found {cap} and {initial}")


def design_size(name: str, wanted: int, population: int, budget: int, regions: int = 1) -> int:
    """Return the evaluations of an initial design, whole generations.

    Raises:
        InputError: the designs of all regions leave nothing of the budget.
    """
    size = population * math.ceil(wanted / population)
    if regions * size >= budget:
        raise InputError(
            f"{name}: expected a budget above the initial design's {regions * size} evaluations, "
            f"found {budget}; raise the budget or lower initial"
        )
    return size


def normal_design(count: int, dim: int, bound: float, seed: int) -> Float[Tensor, "n d"]:
    """Return scrambled Sobol points through the quantile of the normal distribution truncated to the box.

    Truncated and not clipped: no coordinate sits on the box's wall by chance.
    """
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)
    lowest = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64))
    uniform = lowest + (1 - 2 * lowest) * engine.draw(count, dtype=torch.float64)
    normal: Tensor = torch.special.ndtri(uniform)
    return normal.clamp(-min(bound, 8.0), min(bound, 8.0))  # a Sobol point may be 0: -inf in a huge box


def best_rows(loss: Float[Tensor, " n"], cap: int) -> Tensor:
    """Return the indices of the `cap` lowest losses, ascending."""
    return loss.argsort(stable=True)[:cap].sort().values
