"""What a guarantee allows any attacker, in lines."""

from typing import Any

from ggl.base.errors import InputError
from ggl.costs.guarantees import Allowance, guarantee

__all__ = ["run"]


def run(defense: str, candidates: int, **options: Any) -> None:
    """Print the most that any attacker can do; `options` as of `ggl.guarantee`.

    Raises:
        InputError: nothing is proved of the defense.
    """
    found = guarantee(defense, **options)
    most = found.identification(candidates)
    if most is None:
        raise InputError(f"defense {found.defense} allows no bound: {found.reason}")
    print(
        f"at most {most:.4g} of private images are told from {candidates - 1} others as likely, where chance is "
        f"{1 / candidates:.4g}; {found.kind}"
    )
    print(_mechanism(found))


def _mechanism(found: Allowance) -> str:
    mechanism = found.mechanism
    assert mechanism is not None
    figures = {"mu": found.mu, "epsilon": found.epsilon, "rho": found.rho}
    known = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
    return (
        f"{mechanism.noise} noise of {mechanism.scale:.4g} on a sensitivity of {mechanism.sensitivity:.4g} "
        f"against no image, {2 * mechanism.sensitivity:.4g} between two; {known or 'subsampled'}"
    )
