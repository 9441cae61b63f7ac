"""Strategies by name, and what each is; none is imported before it is asked for."""

from collections.abc import Callable
from typing import TypeAlias

from ggl.base.registry import Registry

__all__ = ["StrategyFactory", "register_strategy", "strategies"]

StrategyFactory: TypeAlias = Callable[..., object]
"""A `Strategy` class, or a function that returns one: (latent_dim, *, budget, seed, and options)."""

LISTED = {
    "cma-es": (
        "ggl.optimizers.cmaes.strategies:CMAES",
        "CMA-ES with a full covariance matrix: the field's standard; learns correlations.",
    ),
    "sep-cma-es": (
        "ggl.optimizers.cmaes.strategies:SeparableCMAES",
        "CMA-ES with a diagonal covariance matrix (sep-CMA-ES): learns faster, costs less.",
    ),
    "block-cma-es": (
        "ggl.optimizers.cmaes.blocks:BlockCMAES",
        "CMA-ES with a covariance block for each image of a batch: O(B d²) where the full one is O((B d)²).",
    ),
    "pycma": (
        "ggl.optimizers.libraries.pycma:PyCMA",
        "CMA-ES as the pycma package runs it: the reference; take it for VkD, diagonal decoding or restarts.",
    ),
    "nevergrad": (
        "ggl.optimizers.libraries.nevergrad:Nevergrad",
        "Any optimizer of Nevergrad's registry, asked and told whole generations: for comparisons.",
    ),
    "nevergrad-cma-ggl": (
        "ggl.optimizers.libraries.nevergrad_ggl:NevergradCMAGGL",
        "GGL's published CMA-ES loop with its defect: loses two evaluations of three; for comparison only.",
    ),
    "bo": (
        "ggl.optimizers.bayesian.gp:GaussianProcess",
        "Bayesian optimization (GP with LogEI): for a few hundred costly evaluations; slow past 2,000.",
    ),
    "turbo": (
        "ggl.optimizers.bayesian.turbo:TuRBO",
        "TuRBO: Bayesian optimization in trust regions that grow and shrink; for 500 to 5,000 evaluations.",
    ),
    "gauss-newton": (
        "ggl.optimizers.least_squares.gauss_newton:GaussNewton",
        "Gauss-Newton from residuals, its Jacobian from the population: few evaluations, no gradients.",
    ),
    "eki": (
        "ggl.optimizers.least_squares.eki:EnsembleKalman",
        "Ensemble Kalman inversion from residuals: a contrast that fits no Jacobian.",
    ),
    "random": (
        "ggl.optimizers.random_search:RandomSearch",
        "Draws independent standard normal latents: the baseline that every searcher must beat.",
    ),
    "adam": (
        "ggl.optimizers.gradient.adam:Adam",
        "Adam (arXiv 1412.6980) from several starts at once: needs gradients through prior and victim.",
    ),
    "l-bfgs": (
        "ggl.optimizers.gradient.lbfgs:LBFGS",
        "L-BFGS from several starts at once: needs gradients; take it where evaluations are few.",
    ),
    "basin-cma": (
        "ggl.optimizers.gradient.basin_cma:BasinCMA",
        "CMA-ES whose candidates take a few Adam steps each: needs gradients; a hybrid to set beside both.",
    ),
}

strategies: Registry[StrategyFactory] = Registry("strategy", "ggl.optimizers", LISTED)
register_strategy = strategies.register
