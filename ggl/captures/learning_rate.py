"""The learning rate of a captured update: whether it can be right, and what it is where nobody says."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ggl.attacks.label_sources import infer_client_labels
from ggl.audits.controls import prior_samples
from ggl.base.errors import GradientError, InputError
from ggl.base.random import stream
from ggl.captures.roles import head_bias
from ggl.captures.update import Captured
from ggl.generators import Prior
from ggl.gradients import GradientOracle, Gradients, LocalTraining
from ggl.gradients.view import global_norm
from ggl.measures.statistics import Interval
from ggl.victims.losses import Loss

__all__ = ["Simulate", "check_learning_rate", "estimate_by_samples", "estimate_learning_rate"]

Simulate: TypeAlias = Callable[[float], Sequence[Gradients]]
"""From a learning rate to `before - after` of the same local training, once for each stand-in batch."""

TOLERANCE = 0.05
"""By which an update may pass its bound, relative to it: weight decay is not in the bound."""

FIRST_RATE = 1e-2
EVALUATIONS = 30
CONVERGED = 1e-3
"""Relative difference of the simulated norms' median from the observed one at which the search ends."""
LEAST_SLOPE, LARGEST_SLOPE = 0.2, 2.0
"""Of log norm over log rate; 1 for one step, less where the steps reach a minimum."""
LARGEST_STEP = math.log(10)

STAND_INS = 40
"""Batches of a prior's images that a learning rate is estimated by."""


def check_learning_rate(captured: Captured, *, steps: int = 1, momentum: float = 0.0) -> None:
    """Refuse a learning rate at which the captured update is larger than any that cross-entropy gives.

    The gradient of a mean cross-entropy for the head's bias is the mean of softmax - target: entries in
    [-1, 1], absolute values that sum to 2 at most, whatever the batch. K steps add up to K times that,
    and momentum m to 1 / (1 - m) times that, for plain, Nesterov's and a kept velocity alike.

    It cannot see a learning rate that is too large, nor one that is too small by less than the update
    stays below its bound. A head without bias is not checked. The bound does not hold for a loss
    that is summed over the batch, nor for updates with noise added: do not call it for those.

    Args:
        captured: the update, as `captured_update` reads it.
        steps: local steps K that the client took, at least 1.
        momentum: of its SGD, in [0, 1).

    Raises:
        InputError: the bound is passed, or `steps` or `momentum` is out of its range.
    """
    if steps < 1 or not 0 <= momentum < 1:
        raise InputError(
            f"expected at least 1 local step and a momentum in [0, 1), found {steps} and {momentum:g}"
        )
    name = head_bias(captured.gradients)
    if name is None:
        return
    lost = captured.rounding * captured.before[name].double().abs() / captured.learning_rate
    sizes = (captured.gradients[name].double().abs() - lost).clamp_min(0)
    factor = max(sizes.max().item(), sizes.sum().item() / 2) * (1 - momentum) / steps
    if factor > 1 + TOLERANCE:
        raise InputError(
            f"learning rate {captured.learning_rate:g}: expected {name!r} to change by at most what {steps} "
            f"local step(s) of cross-entropy can, found {factor:.3g} times that; the learning rate is too "
            f"small by at least a factor of {factor:.3g}, or there were more steps"
        )


def estimate_learning_rate(difference: Gradients, simulate: Simulate) -> Interval:
    """Return the learning rate at which stand-in images change the model as much as the client did.

    What is compared is the L2 norm of the whole update. The mean is the rate at which the stand-ins'
    median has the observed norm, by secants in log rate; for one step of SGD that is a plain ratio. The
    bounds are the quantiles, 2.5 % and 97.5 %, of the rates that the single stand-ins ask for: as far as
    the private batch is one of their kind, its rate lies between with a probability of at most
    (n - 1) / (n + 1) for n stand-ins, so give forty. Where several steps overshoot, two rates can give one
    norm, and the bounds know of the one that was found alone. They say nothing of defenses that change
    norms, and grow wide for converged victims, whose gradients differ by orders of magnitude.

    Args:
        difference: before - after of the parameters: `captured_update(..., learning_rate=1.0).gradients`.
        simulate: trains the victim on each stand-in (samples of the prior with the private labels, and
            with the client's steps, batch size and momentum) at a rate and returns the differences.

    Raises:
        InputError: no rate was found that gives this norm, or there is no stand-in.
        GradientError: the observed difference is zero, or most simulated ones are.
    """
    observed = float(global_norm(difference))
    if not 0 < observed < math.inf:
        raise GradientError(f"expected an update that is finite and not zero, found the norm {observed:g}")
    log_rate, slope = math.log(FIRST_RATE), 1.0
    previous: tuple[float, float] | None = None
    for _ in range(EVALUATIONS):
        norms = _norms(simulate(math.exp(log_rate)))
        gap = math.log(observed) - math.log(float(np.median(norms)))
        if previous is not None and log_rate != previous[0]:
            slope = (previous[1] - gap) / (log_rate - previous[0])
            slope = min(max(slope, LEAST_SLOPE), LARGEST_SLOPE)
        if abs(gap) < CONVERGED:
            return _interval(log_rate + (math.log(observed) - np.log(norms)) / slope, log_rate + gap / slope)
        previous = log_rate, gap
        log_rate += min(max(gap / slope, -LARGEST_STEP), LARGEST_STEP)
    raise InputError(
        f"expected a learning rate at which stand-ins change the model by {observed:.3g}, found none near "
        f"{math.exp(log_rate):.3g}; check the local steps, the batch size and the momentum"
    )


def estimate_by_samples(
    captured: Captured,
    prior: Prior,
    labels: Int[Tensor, " b"] | None,
    *,
    batch_size: int = 1,
    local: Callable[[float], LocalTraining | None],
    loss: str | Loss = "cross-entropy",
    seed: int = 0,
) -> Interval:
    """Return the learning rate at which samples of a prior change the victim as much as the client did.

    Args:
        captured: the update, read with a learning rate of 1.
        prior: whose samples are the stand-ins.
        labels: of the client's images; None reads that of a single image off the update.
        batch_size: images of the client, where there are no labels.
        local: the client's local steps at a rate; None for one step on the whole batch.
        loss: of the client.
        seed: of the samples.

    Raises:
        InputError: a batch without labels, or a victim that does not say its label; as
            `estimate_learning_rate`.
        GradientError: as `estimate_learning_rate`.
    """
    if labels is None and batch_size > 1:
        raise InputError("--lr estimate: expected the labels of a batch, give --private-labels or --truth")
    if labels is None:
        oracle = GradientOracle(captured.victim, loss=loss, backend="sequential")
        labels = infer_client_labels(oracle, captured.gradients, 1, prior)
        if labels is None:
            raise InputError(
                "--lr estimate: expected a victim with a linear last layer; give the rate itself"
            )
    known = labels
    random, device = stream(seed, "stand-ins"), torch.device("cpu")
    samples = [prior_samples(prior, known, random, device) for _ in range(STAND_INS)]

    def simulate(rate: float) -> list[Gradients]:
        oracle = GradientOracle(captured.victim, loss=loss, backend="sequential", local=local(rate))
        updates = [oracle.gradient(images, known) for images in samples]
        return [{name: rate * g for name, g in update.items()} for update in updates]

    return estimate_learning_rate(captured.gradients, simulate)


def _interval(log_rates: NDArray[np.float64], log_estimate: float) -> Interval:
    low, high = np.exp(np.quantile(log_rates, [0.025, 0.975]))
    if len(log_rates) == 1:
        low = high = math.nan
    return Interval(math.exp(log_estimate), float(low), float(high), len(log_rates))


def _norms(differences: Sequence[Gradients]) -> NDArray[np.float64]:
    norms = np.array([float(global_norm(difference)) for difference in differences])
    if not norms.size:
        raise InputError("expected at least one stand-in to simulate, found none")
    if not 0 < np.median(norms) < math.inf:
        raise GradientError(
            f"expected stand-ins that change the model by a finite amount, found {np.median(norms):g}"
        )
    return norms.clip(np.finfo(np.float64).tiny)
