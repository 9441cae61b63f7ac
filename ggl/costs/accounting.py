"""What training with a private defense spends: ε at a given δ, by Opacus' accountants."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ggl.base.errors import InputError
from ggl.defenses.base import Composed, Defense
from ggl.defenses.privacy import Guarantee, PrivateDefense

__all__ = ["Accountant", "PrivacySpending", "epsilon", "spending"]

Accountant: TypeAlias = Literal["rdp", "prv"]
"""Rényi DP, or the numerical composition of privacy loss random variables (arXiv 2106.02848)."""

History: TypeAlias = list[tuple[float, float, int]]
"""Noise multiplier, sample rate and number of steps, as Opacus keeps them."""

ORDERS: list[float] = [
    *(1.01, 1.02, 1.05),
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 64),
    *(round(64 * 2 ** (k / 2)) for k in range(8)),
    1000,
]
"""Opacus' Rényi orders, and more at both ends; beyond 1,000 its binomial coefficients overflow."""

LARGEST_PRV = 100.0
"""The ε up to which "prv" is asked: its grid grows with ε, to gigabytes at a thousand."""


@dataclass(frozen=True)
class PrivacySpending:
    """The (ε, δ) of a whole training.

    Attributes:
        epsilon: ε; infinite where there is no noise.
        delta: δ.
        accountant: which one computed ε.
        guarantee: "nominal" where ε would hold only if the bounds did not depend on the data.
        sensitivity_factor: by which every noise multiplier was divided first.
    """

    epsilon: float
    delta: float
    accountant: Accountant
    guarantee: Guarantee
    sensitivity_factor: float


def spending(
    defense: Defense,
    *,
    layers: int,
    rounds: int,
    sample_rate: float,
    delta: float,
    accountant: Accountant = "rdp",
    blocks: int = 100,
) -> PrivacySpending:
    """Return what `rounds` steps of training under a defense spend.

    In a composition the private defense comes first; what is done to its result costs nothing more.

    Args:
        defense: a private one.
        layers: parameter tensors of the victim, each of which a clip by layer treats by itself.
        rounds: steps of training in all.
        sample_rate: the probability that an example takes part in a step, by Poisson sampling.
        delta: δ.
        accountant: "rdp" or "prv".
        blocks: see `epsilon`.

    Raises:
        InputError: the defense gives no guarantee, or a number is out of range.
    """
    private = _private(defense)
    if layers < 1:
        raise InputError(f"expected at least 1 layer, found {layers}")
    factor = private.sensitivity_factor(layers)
    sigmas = private.noise_multipliers(rounds) / factor
    spent = epsilon(sigmas, sample_rate=sample_rate, delta=delta, accountant=accountant, blocks=blocks)
    return PrivacySpending(spent, delta, accountant, private.guarantee, factor)


def epsilon(
    sigmas: ArrayLike,
    *,
    sample_rate: float,
    delta: float,
    accountant: Accountant = "rdp",
    blocks: int = 100,
) -> float:
    """Return the ε of a sequence of Poisson-subsampled Gaussian steps; infinite where one has no noise.

    Args:
        sigmas: every step's noise multiplier (steps,): the noise's deviation over the L2 sensitivity.
        sample_rate: the probability that an example takes part in a step, in (0, 1].
        delta: δ, in (0, 1).
        accountant: "rdp", or "prv", whose upper bound is returned: tighter, slower, and for a rate below
            1 and an ε of at most 100 only.
        blocks: where there are more different multipliers than this, steps of similar ones are joined in
            as many blocks, each counted by its least: ε stays an upper bound.

    Raises:
        InputError: a number is out of range, or "prv" can't compute this ε.
    """
    steps = _checked(sigmas, sample_rate, delta, blocks)
    if not steps.min() > 0:
        return math.inf
    history = [(sigma, sample_rate, count) for sigma, count in _blocks(steps, blocks)]
    spent = _rdp(history, delta)
    return spent if accountant == "rdp" else _prv(history, delta, spent)


def _private(defense: Defense) -> PrivateDefense:
    """Return what a guarantee rests on: later parts must see nothing but its result."""
    first, *rest = defense.parts if isinstance(defense, Composed) else (defense,)
    if not isinstance(first, PrivateDefense):
        if any(isinstance(part, PrivateDefense) for part in rest):
            raise InputError(f"expected the private defense first, found {first.name} before it")
        raise InputError(f"defense {defense.name} gives no DP guarantee: its ε is infinite")
    for part in rest:
        if not part.is_postprocessing:
            raise InputError(
                f"defense {part.name} is given the client, and so may see the batch: after it the guarantee "
                f"of {first.name} is not established"
            )
    return first


def _checked(sigmas: ArrayLike, sample_rate: float, delta: float, blocks: int) -> NDArray[np.float64]:
    steps = np.asarray(sigmas, dtype=np.float64)
    if steps.ndim != 1 or not steps.size:
        raise InputError(f"expected noise multipliers (steps,), found shape {steps.shape}")
    wrong = steps[~(np.isfinite(steps) & (steps >= 0))]
    if wrong.size:
        raise InputError(f"expected noise multipliers of at least 0, found {wrong[0]:g}")
    if not 0 < sample_rate <= 1:
        raise InputError(f"expected a sample rate above 0 and at most 1, found {sample_rate:g}")
    if not 0 < delta < 1:
        raise InputError(f"expected a delta above 0 and below 1, found {delta:g}")
    if blocks < 1:
        raise InputError(f"expected at least 1 block, found {blocks}")
    return steps


def _blocks(steps: NDArray[np.float64], blocks: int) -> list[tuple[float, int]]:
    """Return the least multiplier and the size of every block; ε does not depend on the steps' order."""
    values, counts = np.unique(steps, return_counts=True)
    if len(values) > blocks:
        parts = np.array_split(np.sort(steps), blocks)
        return [(float(part[0]), len(part)) for part in parts]
    return [(float(sigma), int(count)) for sigma, count in zip(values, counts, strict=True)]


def _rdp(history: History, delta: float) -> float:
    from opacus.accountants import create_accountant

    ledger = create_accountant("rdp")
    ledger.history = history
    with _any_order():
        return float(ledger.get_epsilon(delta, alphas=ORDERS))


def _prv(history: History, delta: float, by_rdp: float) -> float:
    from opacus.accountants import create_accountant

    if by_rdp > LARGEST_PRV or history[0][1] == 1:
        limits = f"a sample rate below 1 and an epsilon of at most {LARGEST_PRV:g}"
        found = f"{history[0][1]:g} and {by_rdp:.4g}"
        raise InputError(f"accountant 'prv' needs {limits}, found {found}; take 'rdp'")
    ledger = create_accountant("prv")
    ledger.history = history
    try:
        with _any_order():
            return float(ledger.get_epsilon(delta))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"accountant 'prv' can't compute this: {error}; take 'rdp'") from error


@contextmanager
def _any_order() -> Iterator[None]:
    """Leave out one warning: that the best order lies at the end of those tried.

    Every order gives a valid bound; "prv" uses it only to lay out its grid.
    """
    with warnings.catch_warnings():
        message = "Optimal order is the (largest|smallest) alpha"
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield
