"""What a guarantee allows any attacker, in words."""

from ggl.base.errors import InputError
from ggl.costs.guarantees import Allowance

__all__ = ["described"]


def described(found: Allowance, candidates: int) -> str:
    """Return two lines: the most that any attacker can do, and the mechanism that it follows from.

    Raises:
        InputError: nothing is proved of the defense.
    """
    most, mechanism = found.identification(candidates), found.mechanism
    if most is None or mechanism is None:
        raise InputError(f"defense {found.defense} allows no bound: {found.reason}")
    figures = {"mu": found.mu, "epsilon": found.epsilon, "rho": found.rho}
    known = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
    return (
        f"at most {most:.4g} of private images are found among {candidates} equally likely candidates, where "
        f"chance is {1 / candidates:.4g}; {found.kind}\n"
        f"{mechanism.noise} noise of {mechanism.scale:.4g} on a sensitivity of {mechanism.sensitivity:.4g} "
        f"against no image, {2 * mechanism.sensitivity:.4g} between two; {known or 'subsampled'}"
    )
