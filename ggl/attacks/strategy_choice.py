"""Which strategy searches where none is asked for."""

import warnings

from ggl.attacks.label_sources import load_label_rule
from ggl.attacks.settings import AUTO, AttackSettings
from ggl.attacks.strategy_options import read_options
from ggl.gradients import GradientOracle, View
from ggl.gradients.residuals import is_separable, is_sum_of_squares
from ggl.optimizers import Strategy, load_strategy
from ggl.optimizers.least_squares.gauss_newton import LARGEST

__all__ = ["SCALAR", "StrategyWarning", "chosen_strategy", "trial_strategy"]

RESIDUAL, SCALAR = "gauss-newton", "cma-es"
"""The search that is told residuals, and the one that is told losses alone."""

JACOBIANS = 2
"""Evaluations of so many Jacobians are the least budget that one search with residuals is worth."""


class StrategyWarning(UserWarning):
    """The strategy that was taken is not the one that is told most, and why."""


def chosen_strategy(
    settings: AttackSettings, oracle: GradientOracle, view: View, batch_size: int, *, statistics: bool = False
) -> str:
    """Return the strategy that settings name, or for "auto" the one that suits the attack.

    `gauss-newton` where the budget holds two of its Jacobians, else `cma-es`. Where there are no residuals,
    or too many coordinates, a warning says that `cma-es` it is, and why.
    """
    if settings.strategy != AUTO:
        return settings.strategy
    size = load_label_rule(settings.label_rule, oracle, settings.prior).size
    coordinates = batch_size * (settings.prior.latent_dim + size)
    reason = ""
    if size:
        reason = "labels are searched, between which residuals jump"
    elif statistics:
        reason = "a batch's statistics are matched too, which gives no residuals"
    elif not is_sum_of_squares(view, settings.distance):
        reason = "the distance is no sum of squares"
    elif coordinates > LARGEST:
        reason = f"{coordinates:,} coordinates are more than {LARGEST:,}"
    if reason:
        warnings.warn(f"the strategy is {SCALAR}, not {RESIDUAL}: {reason}", StrategyWarning, stacklevel=3)
        return SCALAR
    jacobian = settings.prior.latent_dim if is_separable(oracle, view) else coordinates
    return RESIDUAL if settings.budget // settings.restarts >= JACOBIANS * jacobian else SCALAR


def trial_strategy(settings: AttackSettings, batch_size: int, label_size: int) -> Strategy:
    """Return a strategy as searches begin with it; of "auto" the one that is told losses alone.

    Args:
        settings: of the attack.
        batch_size: images that one search looks for.
        label_size: coordinates of every image's label.

    Raises:
        InputError: an unknown name, or options that do not fit.
    """
    options = read_options(settings.strategy)
    return load_strategy(
        SCALAR if settings.strategy == AUTO else options.searcher,
        latent_dim=batch_size * (settings.prior.latent_dim + label_size),
        budget=options.own(settings.budget),
        seed=settings.seed,
        blocks=batch_size,
    )
