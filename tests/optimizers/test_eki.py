"""Ensemble Kalman inversion: exact on linear problems within the span of its first ensemble."""

import pytest
import torch

from ggl.base.errors import InputError
from ggl.optimizers import load_strategy
from ggl.optimizers.residuals import Residuals

D, M = 6, 40
OPTIONS = {"latent_dim": D, "budget": 500, "seed": 0}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def advanced(strategy, maps, target, unit, generations):
    """Tell generations of a linear map; return the losses of each."""
    found = []
    for _ in range(generations):
        z = strategy.ask()
        values = z @ maps.T
        goal = target / target.norm() if unit else target
        compared = values / values.norm(dim=1, keepdim=True) if unit else values
        found.append((compared - goal).square().sum(1))
        strategy.tell(z, found[-1], None, Residuals(values[:, None], target, unit))
    return found


@pytest.mark.parametrize("unit", [False, True])
def test_a_linear_problem_is_solved(unit):
    maps = random(M, D)
    target = maps @ random(D, seed=1)
    losses = advanced(load_strategy("eki", **OPTIONS), maps, target, unit, 25)
    assert losses[-1].min() < 1e-2 * losses[0].min()
    assert len(losses[0]) == 32


def test_an_ensemble_never_leaves_its_span():
    strategy = load_strategy("eki:ensemble=3", **OPTIONS)
    first = strategy.ask()
    strategy.tell(first, torch.zeros(3), None, Residuals(first[:, None], torch.ones(D), unit=False))
    second = strategy.ask()
    assert not torch.allclose(first, second)
    differences = torch.cat([first - first[0], second - first[0]])
    assert int(torch.linalg.matrix_rank(differences)) == 2


@pytest.mark.parametrize("options", ["ensemble=1", "ensemble=-2", "damping=0"])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=r"^eki: expected an ensemble of 2 or more, or 0, and damping above"):
        load_strategy(f"eki:{options}", **OPTIONS)
