"""What a guarantee allows: the most that any attacker can do, whatever the prior, search and computer.

Of a mechanism let g(a) be the largest probability of an event under any private image, among the events of
probability a under one reference that holds none of them (1 - f(a) of its trade-off function f). An attack
that succeeds by chance with probability κ, on average over equally likely images, succeeds with g(κ) at most.
docs/guarantees.md has the proofs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from ggl.base.errors import InputError
from ggl.costs.accounting import Accountant, epsilon
from ggl.defenses import Composed, Defense, load_defense
from ggl.defenses.mechanism import Mechanism, Release
from ggl.defenses.privacy import Guarantee, PrivateDefense

__all__ = ["Allowance", "concentrated", "gaussian", "guarantee", "no_allowance", "pure", "within_curve"]

DELTAS = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2)
"""At which a subsampled training's ε is asked; each gives a bound of its own, and the least is taken."""

Curve = tuple[tuple[float, float], ...]
"""Pairs (ε, δ) at which a release is private."""


@dataclass(frozen=True)
class Allowance:
    """What a defense's proof allows any attacker.

    Attributes:
        defense: its name.
        kind: "formal"; "nominal" where a bound would hold only if it did not depend on the data, and so does
            not; None where nothing is proved.
        reason: in words, why there is no bound; empty where there is one.
        mechanism: of the first release, with the sensitivity that was used.
        mu: of Gaussian DP, all releases together; None of other noise, and of subsampled training.
        epsilon: of pure DP against the reference, None where the number of coordinates is not known; two
            images' releases are within twice that.
        rho: of concentrated DP against the reference, None of Gaussian noise.
        curve: (ε, δ) of subsampled training.
    """

    defense: str
    kind: Guarantee | None
    reason: str = ""
    mechanism: Mechanism | None = None
    mu: float | None = None
    epsilon: float | None = None
    rho: float | None = None
    curve: Curve = ()

    def most(self, baseline: float) -> float | None:
        """Return the largest success rate of any attack that succeeds by chance at a rate of `baseline`.

        The chance is that of the best guess without the release: 1/N of the private image among N equally
        likely ones; κ of Hayes et al. (arXiv 2302.07225) for a reconstruction within some error. None where
        nothing is proved.

        Raises:
            InputError: a baseline outside (0, 1].
        """
        if not 0 < baseline <= 1:
            raise InputError(f"expected a baseline above 0 and at most 1, found {baseline:g}")
        if self.kind != "formal":
            return None
        found = [1.0]
        if self.mu is not None:
            found.append(gaussian(baseline, self.mu))
        if self.epsilon is not None:
            found.append(pure(baseline, self.epsilon))
        if self.rho is not None:
            found.append(concentrated(baseline, self.rho))
        if self.curve:
            found.append(within_curve(baseline, self.curve))
        return max(baseline, min(found))

    def identification(self, candidates: int) -> float | None:
        """Return the largest rate at which private images are told from `candidates` - 1 others as likely.

        Raises:
            InputError: fewer than 2 candidates.
        """
        if candidates < 2:
            raise InputError(f"expected at least 2 candidates, found {candidates}")
        return self.most(1 / candidates)


def guarantee(
    defense: str | Defense,
    *,
    layers: int,
    coordinates: int | None = None,
    batch_size: int = 1,
    releases: int = 1,
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
    sample_rate: float = 1.0,
    accountant: Accountant = "prv",
) -> Allowance:
    """Return what a defense's proof allows any attacker who is given what a client shares.

    Args:
        defense: its name, such as "fed-cdp:4,6" or "clip:1+noise:0.5", or itself.
        layers: parameter tensors of the victim, each of which a clip by layer treats by itself.
        coordinates: parameters in all; for Laplacian noise.
        batch_size: of the client.
        releases: rounds of the same image, from `round` on, all of which the attacker has.
        round: rounds of training before the first.
        rounds: of training in all, for defenses that follow a schedule.
        sample_rate: the probability that the image takes part in a round, by Poisson sampling; below 1 the
            releases are those of the whole training, and nobody is told who took part.
        accountant: of subsampled training.

    Raises:
        InputError: a number that is out of range, or subsampling where no accountant knows it.

    Examples:
        >>> found = ggl.guarantee("dp-sgd:1,1", layers=10)
        >>> round(found.identification(candidates=100), 4)
        0.0924
        >>> ggl.guarantee("prune:0.9", layers=10).reason
        'no noise of a known scale is added to a gradient of bounded norm'
    """
    known = load_defense(defense)
    _check(layers, batch_size, releases, round, rounds, sample_rate)
    if coordinates is not None and coordinates < layers:
        raise InputError(f"expected at least as many coordinates as layers, {layers}, found {coordinates}")
    of_rounds = [Release(layers, batch_size, t / rounds) for t in range(round, round + releases)]
    found = [known.mechanism(release) for release in of_rounds]
    proved = [mechanism for mechanism in found if mechanism is not None]
    if len(proved) < len(found):
        return _without_proof(known, of_rounds[0])
    if sample_rate < 1:
        return _subsampled(known, proved, sample_rate, accountant)
    squares = math.fsum((mechanism.sensitivity / mechanism.scale) ** 2 for mechanism in proved)
    if proved[0].noise == "gaussian":
        return Allowance(known.name, "formal", mechanism=proved[0], mu=math.sqrt(squares))
    shifts = math.fsum(mechanism.sensitivity / mechanism.scale for mechanism in proved)
    total = None if coordinates is None else math.sqrt(coordinates) * shifts
    return Allowance(known.name, "formal", mechanism=proved[0], epsilon=total, rho=squares / 2)


def no_allowance(defense: Defense, reason: str) -> Allowance:
    """Return that nothing is proved, and why."""
    return Allowance(defense.name, None, reason)


def gaussian(baseline: float, mu: float) -> float:
    """Return Φ(Φ⁻¹(κ) + μ): of releases that are μ-Gaussian DP against the reference (arXiv 1905.02383)."""
    return float(ndtr(ndtri(baseline) + mu))


def pure(baseline: float, epsilon: float) -> float:
    """Return the lesser of κ e^ε and 1 - (1 - κ) e^-ε, of densities within e^±ε of the reference's.

    Two images' are then within e^±2ε of each other, and what follows from that alone, the posterior's
    κ e^2ε / (κ e^2ε + 1 - κ), or e^2ε / (e^2ε + N - 1), is never less.
    """
    up = math.exp(min(epsilon, 300.0))
    return min(baseline * up, 1 - (1 - baseline) / up)


def concentrated(baseline: float, rho: float) -> float:
    """Return the lesser of two bounds, of Rényi divergences within αρ from and to the reference.

    Hölder's inequality gives P(A) ≤ (e^αρ Q(A))^(1 - 1/α), and the same of Q and the complement; the best
    orders leave exp(-(√ln(1/κ) - √ρ)²) where ρ < ln(1/κ), and 1 - exp(-(√ρ + √ln(1/(1 - κ)))²).
    """
    surprise, calm = -math.log(baseline), -math.log1p(-baseline) if baseline < 1 else math.inf
    rise = math.exp(-((math.sqrt(surprise) - math.sqrt(rho)) ** 2)) if rho < surprise else 1.0
    return min(rise, -math.expm1(-((math.sqrt(rho) + math.sqrt(calm)) ** 2)))


def within_curve(baseline: float, curve: Sequence[tuple[float, float]]) -> float:
    """Return the least over (ε, δ) of κ e^ε + δ and 1 - (1 - κ - δ) e^-ε."""
    rises = [baseline * math.exp(min(e, 300.0)) + d for e, d in curve]
    falls = [1 - (1 - baseline - d) * math.exp(-e) for e, d in curve]
    return min(*rises, *falls, 1.0)


def _check(layers: int, batch_size: int, releases: int, first: int, rounds: int, sample_rate: float) -> None:
    for what, number in (("layer", layers), ("image in a batch", batch_size), ("release", releases)):
        if number < 1:
            raise InputError(f"expected at least 1 {what}, found {number}")
    if not 0 <= first <= rounds - releases:
        raise InputError(f"expected {releases} releases within {rounds} rounds, found them from {first} on")
    if not 0 < sample_rate <= 1:
        raise InputError(f"expected a sample rate above 0 and at most 1, found {sample_rate:g}")


def _subsampled(
    defense: Defense, proved: Sequence[Mechanism], sample_rate: float, accountant: Accountant
) -> Allowance:
    """Return the allowance of a training in whose steps an image takes part by Poisson sampling.

    Adding or removing it is what Opacus accounts for, and the training without it is the reference.
    """
    if not (proved[0].by_example and proved[0].noise == "gaussian"):
        raise InputError(
            f"{defense.name}: subsampling is accounted for where every example is clipped and the noise is "
            "Gaussian, as by dp-sgd; leave the sample rate out"
        )
    sigmas = [mechanism.scale / mechanism.sensitivity for mechanism in proved]
    curve = [
        (max(0.0, epsilon(sigmas, sample_rate=sample_rate, delta=delta, accountant=accountant)), delta)
        for delta in DELTAS
    ]
    return Allowance(defense.name, "formal", mechanism=proved[0], curve=tuple(curve))


def _without_proof(defense: Defense, release: Release) -> Allowance:
    parts = defense.parts if isinstance(defense, Composed) else (defense,)
    if any(isinstance(part, PrivateDefense) and part.guarantee == "nominal" for part in parts):
        reason = "its clipping bounds, and so its noise, depend on the data"
        return Allowance(defense.name, "nominal", reason)
    for k, part in enumerate(parts):
        if not part.is_postprocessing and Composed(parts[:k]).mechanism(release) is not None:
            return no_allowance(
                defense, f"{part.name} is given the client, and so may see the batch after the noise"
            )
    return no_allowance(defense, "no noise of a known scale is added to a gradient of bounded norm")
