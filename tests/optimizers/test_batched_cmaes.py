"""Batched CMA-ES against pycma 4.5, against its own single searches, and its stopping."""

import math
import warnings

import numpy as np
import pytest
import torch

from ggl.base.errors import InputError
from ggl.optimizers import load_group, load_strategy
from ggl.optimizers.cmaes.constants import constants, default_population
from ggl.optimizers.cmaes.searches import BatchedCMAES
from ggl.optimizers.cmaes.stopping import FLAT_GENERATIONS
from ggl.optimizers.group import SideBySide

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pycma warns of a missing plotting library on import
    from cma import CMAEvolutionStrategy

CPU = torch.device("cpu")


def group(dim, searches=2, sigma0=0.5, population=None, separable=False, first=0):
    seeds = list(range(first, first + searches))
    return BatchedCMAES(
        dim, seeds=seeds, device=CPU, sigma0=sigma0, population=population, separable=separable
    )


def pycma(dim, sigma0, population, separable, gap=None):
    """pycma with draws of its own: its samples are replaced by ours."""
    random = np.random.Generator(np.random.PCG64(0))
    options = {
        "popsize": population,
        "CMA_diagonal": separable,
        "randn": lambda *shape: random.standard_normal(shape),
        "seed": np.nan,
        "updatecovwait": gap,
        "verbose": -10,
    }
    return CMAEvolutionStrategy(np.zeros(dim), sigma0, options)


def rotation(dim):
    normal = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(normal).Q


def sphere(z):
    return (z - 1).square().sum(1)


def ellipsoid(z):
    scales = 10 ** torch.linspace(0, 3, z.shape[1], dtype=torch.float64)
    return (((z - 1) @ rotation(z.shape[1]).T).square() * scales).sum(1)


def rosenbrock(z):
    x, y = z[:, :-1], z[:, 1:]
    return (100 * (x.square() - y).square() + (x - 1).square()).sum(1)


def advance(searches, generations, objective=sphere, chosen=None):
    rows = []
    for _ in range(generations):
        rows = searches.ask(range(len(searches)) if chosen is None else chosen)
        searches.tell(rows, [objective(z) for z in rows])
    return rows


def relative(value, expected):
    expected = np.asarray(expected)
    return np.linalg.norm(value.numpy() - expected) / max(np.linalg.norm(expected), 1e-30)


def differences(searches, k, reference, separable):
    """The relative difference of every part of search k's state from pycma's."""
    covariance = reference.sigma_vec.scaling**2 if separable else reference.sm.C
    return {
        "mean": relative(searches.mean[k], reference.mean),
        "sigma": relative(searches.sigma[k], reference.sigma),
        "path_c": relative(searches.path_c[k], reference.pc),
        "path_sigma": relative(searches.path_sigma[k], reference.adapt_sigma.ps),
        "covariance": relative(searches.distribution.covariance[k], covariance),
    }


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize(
    ("dim", "population", "sigma0", "generations"),
    [(20, None, 0.5, 60), (20, 50, 0.5, 60), (20, 6, 1e-3, 60), (128, None, 0.5, 5), (128, 50, 0.5, 5)],
)
def test_the_update_is_pycmas(dim, population, sigma0, generations, separable):
    """A step size that is far too small makes the paths long and stalls the rank-one update (h_σ = 0)."""
    searches = group(dim, sigma0=sigma0, population=population, separable=separable)
    gap = searches.constants.gap
    references = [pycma(dim, sigma0, searches.population, separable, gap) for _ in range(len(searches))]
    for _ in range(generations):
        rows = searches.ask([0, 1])
        losses = [ellipsoid(z) for z in rows]
        searches.tell(rows, losses)
        for k, (reference, z, loss) in enumerate(zip(references, rows, losses, strict=True)):
            reference.ask()
            reference.tell(list(z.numpy().copy()), loss.tolist(), check_points=False)
            off = differences(searches, k, reference, separable)
            assert max(off.values()) < 1e-9, off
    assert searches.sizes() == [searches.population] * 2


def test_the_rank_one_update_stalls_where_the_step_size_is_far_too_small(monkeypatch):
    """What the case of sigma0 = 1e-3 above relies on."""
    searches, stalls = group(20, sigma0=1e-3, population=6), []
    update = searches.distribution.update
    monkeypatch.setattr(
        searches.distribution, "update", lambda w, s: (stalls.append(s.stalled.any()), update(w, s))
    )
    advance(searches, 60)
    assert 0 < sum(stalls) < 60


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("dim", [2, 20, 128, 256])
@pytest.mark.parametrize("population", [6, 7, 18, 50])
def test_the_parameters_are_pycmas(dim, population, separable):
    reference, own = pycma(dim, 0.5, population, separable), constants(dim, population, separable=separable)
    parameters = reference.sm.parameters(mueff=own.mueff, lam=population)
    rates = (
        [reference.sp.cc_sep, reference.sp.c1_sep, reference.sp.cmu_sep]
        if separable
        else [reference.sp.cc, parameters["c1"], parameters["cmu"]]
    )
    expected = [reference.sp.weights.mueff, reference.adapt_sigma.cs, reference.adapt_sigma.damps, *rates]
    assert [own.mueff, own.cs, own.damping, own.cc, own.c1, own.cmu] == pytest.approx(expected, rel=1e-12)
    assert own.weights == pytest.approx(list(reference.sp.weights), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("dim", "population"), [(10, None), (40, 6), (64, None)])
def test_the_eigensystem_lags_by_the_gap(dim, population):
    searches, ages = group(dim, population=population), []
    gap = math.ceil(searches.constants.gap)
    for _ in range(3 * gap):
        advance(searches, 1)
        ages += (searches.generations - searches.distribution.decomposed).tolist()
    assert set(ages) == set(range(1, gap + 1))


def test_the_covariance_hardly_changes_within_the_gap():
    """Each generation replaces c1 + cmu of it: 2 % in all."""
    own = constants(128, 50, separable=False)
    assert own.gap * (own.c1 + own.cmu) == pytest.approx(0.02)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize(("dim", "population"), [(3, None), (20, None), (128, 50)])
def test_a_search_of_a_group_is_bit_for_bit_what_it_is_alone(dim, population, separable):
    together = group(dim, 8, population=population, separable=separable)
    rows = advance(together, 6, ellipsoid)
    for k in range(8):
        alone = group(dim, 1, population=population, separable=separable, first=k)
        assert torch.equal(advance(alone, 6, ellipsoid)[0], rows[k])
        assert torch.equal(alone.distribution.covariance[0], together.distribution.covariance[k])


@pytest.mark.parametrize("separable", [False, True])
def test_searches_may_be_asked_in_part(separable):
    together = group(20, 4, separable=separable)
    for chosen in ([0, 1, 2, 3], [1, 3], [3], [0, 1, 3], [1, 2]):
        advance(together, 3, ellipsoid, chosen)
    counts = together.generations.tolist()
    assert counts == [6, 12, 6, 12]
    final = together.ask(range(4))
    for k, count in enumerate(counts):
        alone = group(20, 1, separable=separable, first=k)
        advance(alone, count, ellipsoid)
        assert torch.equal(alone.ask([0])[0], final[k])


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("generations", [0, 1, 7])
def test_a_saved_group_continues_bit_for_bit(separable, generations):
    searches, resumed = (
        group(40, 3, population=6, separable=separable),
        group(40, 3, population=6, separable=separable),
    )
    advance(searches, generations, ellipsoid)
    state = searches.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    resumed.load_state_dict(state)
    expected = advance(searches, 5, ellipsoid)
    assert all(torch.equal(a, b) for a, b in zip(advance(resumed, 5, ellipsoid), expected, strict=True))
    assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["cma-es", "sep-cma-es"])
def test_a_catalog_group_is_the_single_strategies(name):
    together = load_group(name, latent_dim=12, budget=100, seeds=[3, 4])
    assert isinstance(together, BatchedCMAES)
    single = [load_strategy(name, latent_dim=12, budget=100, seed=seed) for seed in (3, 4)]
    expected = advance(SideBySide(single), 5, ellipsoid)
    assert all(torch.equal(a, b) for a, b in zip(advance(together, 5, ellipsoid), expected, strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("separable", [False, True])
def test_a_loss_that_is_not_finite_is_the_worst(bad, separable):
    searches, other = group(12, separable=separable), group(12, separable=separable)
    rows = searches.ask([0, 1])
    losses = [sphere(z) for z in rows]
    losses[1][3] = bad
    worst = [losses[0], losses[1].nan_to_num(1e9, 1e9, 1e9)]
    searches.tell(rows, losses)
    other.tell(other.ask([0, 1]), worst)
    assert torch.equal(searches.ask([0, 1])[1], other.ask([0, 1])[1])


@pytest.mark.parametrize("value", [0.0, torch.nan])
@pytest.mark.parametrize("separable", [False, True])
def test_a_search_of_equal_losses_stops_and_the_other_goes_on(value, separable):
    searches = group(4, population=20, separable=separable)
    for _ in range(FLAT_GENERATIONS + 1):
        if searches.sizes()[0] == 0:
            break
        rows = searches.ask([0, 1])
        searches.tell(rows, [torch.full((20,), value, dtype=torch.float64), sphere(rows[1])])
    assert searches.sizes() == [0, 20]
    assert all(z.isfinite().all() for z in searches.ask([0, 1]))


def test_losses_that_are_mostly_equal_stop_a_search():
    """The best three quarters are equal, the best of a generation changes: only flatness can stop it."""
    searches = group(4, 1, population=20)
    for generation in range(FLAT_GENERATIONS + 1):
        assert searches.sizes() == [20]
        loss = torch.full((20,), float(generation), dtype=torch.float64)
        loss[-4:] += 1
        searches.tell(searches.ask([0]), [loss])
    assert searches.sizes() == [0]


@pytest.mark.parametrize(("slope", "stops"), [(1e-14, True), (1e-9, False)])
def test_best_losses_that_do_not_change_over_the_window_stop_a_search(slope, stops):
    searches = group(4, 1, population=20)
    for generation in range(searches.stopping.window):
        assert searches.sizes() == [20]
        loss = torch.arange(20, dtype=torch.float64) - slope * generation
        searches.tell(searches.ask([0]), [loss])
    assert (searches.sizes() == [0]) is stops


@pytest.mark.parametrize("separable", [False, True])
def test_a_step_size_that_vanished_stops_a_search(separable):
    searches = group(4, separable=separable)
    searches.sigma[0] = 1e-12 * searches.sigma0
    advance(searches, 1)
    assert searches.sizes() == [0, searches.population]


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("value", [1e15, torch.nan, -1.0])
def test_a_covariance_past_repair_stops_its_search_alone(separable, value):
    searches, other = group(4, separable=separable), group(4, separable=separable)
    advance(searches, 1)
    advance(other, 1)
    variances = searches.distribution.covariance[0]
    (variances if separable else variances.diagonal())[2] = value
    rows = searches.ask([0, 1])
    assert searches.sizes() == [0, searches.population]
    assert torch.equal(rows[1], other.ask([0, 1])[1])


def test_a_state_that_is_not_finite_stops_its_search_and_leaves_the_mean():
    searches = group(4)
    advance(searches, 1)
    mean = searches.mean.clone()
    searches.path_sigma[0, 0] = torch.nan
    advance(searches, 1)
    assert searches.sizes() == [0, searches.population]
    assert torch.equal(searches.mean[0], mean[0])
    assert searches.sigma.isfinite().all()
    assert not torch.equal(searches.mean[1], mean[1])


def test_a_stopped_single_search_says_so():
    strategy = load_strategy("cma-es", latent_dim=1, budget=10_000, seed=0)
    while not strategy.stopped:
        z = strategy.ask()
        strategy.tell(z, sphere(z))
    resumed = load_strategy("cma-es", latent_dim=1, budget=10_000, seed=0)
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.stopped
    assert sphere(strategy.ask()).min() < 1e-10


@pytest.mark.parametrize(
    ("objective", "separable", "generations"),
    [(sphere, False, 220), (sphere, True, 200), (ellipsoid, False, 600), (rosenbrock, False, 1300)],
)
def test_every_search_finds_the_minimum(objective, separable, generations):
    """Rosenbrock's local minimum, near (-1, 1, ..., 1) and of value 3.99, is none of these seeds' end."""
    searches = group(20, 4, population=20, separable=separable)
    losses = torch.stack([objective(z).min() for z in advance(searches, generations, objective)])
    assert (losses < 1e-8).all()


def test_draws_have_the_covariance_of_the_search():
    """n draws' variance along an axis deviates by σ² sqrt(2 / n) in the standard deviation."""
    searches = group(3, 1, population=4000)
    searches.mean[0] = 2
    searches.sigma[0] = 0.3
    turned = rotation(3)
    searches.distribution.covariance[0] = turned @ torch.diag(torch.tensor([1.0, 4, 9]).double()) @ turned.T
    searches.generations += 1
    steps = (searches.ask([0])[0] - 2) / 0.3 @ turned
    bound = 5 * (2 / 4000) ** 0.5
    assert ((steps.square().mean(0) / torch.tensor([1.0, 4, 9]).double() - 1).abs() < bound).all()
    assert (torch.corrcoef(steps.T) - torch.eye(3)).abs().max() < 5 / 4000**0.5


def test_draws_differ_from_seed_to_seed():
    rows = group(20, 2).ask([0, 1])
    assert not torch.isclose(rows[0], rows[1]).any()


@pytest.mark.parametrize(("dim", "population"), [(1, 4), (12, 11), (64, 16), (128, 18)])
def test_the_default_population_grows_with_the_dimension_for_a_group(dim, population):
    assert default_population(dim) == group(dim).population == population


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dim": 0}, "latent dimension of at least 1, found 0"),
        ({"dim": 4, "searches": 0}, "at least one seed"),
        ({"dim": 4, "population": 2}, "population of at least 3, found 2"),
        ({"dim": 4, "sigma0": 0.0}, "sigma0 above 0, found 0"),
        ({"dim": 4, "sigma0": float("inf")}, "sigma0 above 0, found inf"),
    ],
)
def test_bad_settings_are_refused(settings, reason):
    with pytest.raises(InputError, match=reason):
        group(**settings)


def test_a_group_is_asked_and_told_in_turn():
    searches = group(4)
    with pytest.raises(InputError, match="told before asked"):
        searches.tell([], [])
    rows = searches.ask([0, 1])
    with pytest.raises(InputError, match="asked twice"):
        searches.ask([0, 1])
    with pytest.raises(InputError, match="saved between generations"):
        searches.state_dict()
    losses = [sphere(z) for z in rows]
    for bad in (rows[:1], [rows[0], rows[1][1:]]):
        with pytest.raises(InputError, match="return what was asked"):
            searches.tell(bad, losses)
    with pytest.raises(InputError, match="return what was asked"):
        searches.tell(rows, [losses[0], losses[1][1:]])
    searches.tell(rows, losses)
    assert searches.generations.tolist() == [1, 1]
