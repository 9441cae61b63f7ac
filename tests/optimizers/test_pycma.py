"""pycma behind the contract: the same search as pycma's own, and restarts that keep to the budget."""

import cma
import numpy as np
import pytest
import torch
from cma.restricted_gaussian_sampler import GaussVkDSampler
from cma.sampler import GaussFullSampler, GaussStandardConstant
from hypothesis import given
from hypothesis import strategies as st

from ggl.base.errors import CheckpointError, InputError
from ggl.base.random import numpy_stream
from ggl.base.weights import load_tensors, save_tensors
from ggl.optimizers.libraries.pycma import PyCMA
from ggl.optimizers.libraries.restarts import BIPOP, IPOP, Run

DIM, SEED = 12, 3
VARIANTS = ["full", "diagonal", "dd", "vkd"]


def load(latent_dim=DIM, budget=200, **options):
    return PyCMA(latent_dim, budget=budget, seed=SEED, **options)


def restarting(restarts, budget=3000, latent_dim=3, **options):
    return load(latent_dim, budget, restarts=restarts, restart_above=0, **options)


def ellipsoid(z):
    scale = 10 ** torch.linspace(0, 2, z.shape[1], dtype=torch.float64)
    return (scale * (z - 1).square()).sum(1)


def rastrigin(z):
    """Shifted by 1: local minima about 1 apart, that of the value 0 at (1, ..., 1)."""
    return ((z - 1).square() + 10 - 10 * torch.cos(2 * torch.pi * (z - 1))).sum(1)


def rounded(z):
    """A plateau once the loss is near 5: pycma ends a run there."""
    return (ellipsoid(z) / 10).round()


def flat(z):
    return torch.ones(len(z), dtype=torch.float64)


def advance(strategy, objective, generations):
    rows = []
    for _ in range(generations):
        rows.append(strategy.ask())
        strategy.tell(rows[-1], objective(rows[-1]))
    return rows


def spend(strategy, objective, budget):
    """Search as the loop of `ggl.attacks.search` does, and return the generations."""
    rows, spent = [], 0
    while not strategy.stopped and spent + strategy.batch_size <= budget:
        rows += advance(strategy, objective, 1)
        spent += len(rows[-1])
    return rows


def reference(variant, random, mean, sigma0=0.5, population=11):
    """Return pycma's own object, a variant set up as pycma documents it."""
    options = {"popsize": population, "randn": lambda *shape: random.standard_normal(shape)}
    options |= {"seed": np.nan, "verbose": -9}
    if variant == "vkd":
        options["CMA_sampler_options"] = {"randn": options["randn"]}
        options = GaussVkDSampler.extend_cma_options(options)
    options |= {"diagonal": {"CMA_diagonal": True}, "dd": {"CMA_diagonal_decoding": 1}}.get(variant, {})
    return cma.CMAEvolutionStrategy(mean, sigma0, options)


def agree(strategy, own, objective):
    """Advance both by a generation, which is the same to the bit."""
    expected, z = own.ask(), strategy.ask()
    assert np.array_equal(z.numpy(), np.stack(expected))
    strategy.tell(z, objective(z))
    own.tell(expected, objective(torch.from_numpy(np.stack(expected))).tolist())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("sigma0", "population", "mean"), [(0.5, 11, 0.0), (0.2, 20, 0.3), (1.0, 4, -0.3)])
def test_a_search_is_pycmas_own_with_our_draws(variant, sigma0, population, mean):
    own = reference(variant, numpy_stream(SEED, "pycma"), np.full(DIM, mean), sigma0, population)
    strategy = load(variant=variant, sigma0=sigma0, population=population, mean=mean)
    for _ in range(30):
        agree(strategy, own, ellipsoid)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_restarted_search_is_pycmas_own_from_a_drawn_mean(variant):
    """pycma's rules end the first run; the next has twice its candidates, and the stream's next draws."""
    draws, chance = numpy_stream(SEED, "pycma"), numpy_stream(SEED, "pycma", "restarts")
    strategy = restarting("ipop", latent_dim=DIM, variant=variant)
    own = reference(variant, draws, np.zeros(DIM))
    while not own.stop():
        agree(strategy, own, rounded)
    own = reference(variant, draws, chance.standard_normal(DIM), population=22)
    assert strategy.batch_size == 22
    agree(strategy, own, rounded)


@pytest.mark.parametrize(
    ("variant", "sampler"),
    [
        ("full", GaussFullSampler),
        ("diagonal", GaussStandardConstant),
        ("dd", GaussFullSampler),
        ("vkd", GaussVkDSampler),
    ],
)
def test_a_variant_reaches_pycma(variant, sampler):
    search = load(variant=variant)._search
    assert type(search.sm) is sampler
    assert search.opts["CMA_diagonal_decoding"] == (variant == "dd")


@pytest.mark.parametrize(("dim", "population"), [(1, 4), (12, 11), (64, 16), (128, 18)])
def test_the_default_population_grows_with_the_dimension(dim, population):
    """4 + floor(3 ln d): Hansen (arXiv 1604.00772), equation 48."""
    assert load(dim).batch_size == population


@pytest.mark.parametrize("variant", VARIANTS)
def test_global_random_states_are_neither_read_nor_changed(variant):
    rows = []
    for seed in (0, 1):
        np.random.seed(seed)
        before = np.random.get_state()[1].copy()
        rows.append(torch.cat(advance(load(variant=variant), ellipsoid, 20)))
        assert np.array_equal(np.random.get_state()[1], before)
    assert torch.equal(*rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_of_the_working_directory_are_neither_read_nor_written(variant, tmp_path, monkeypatch):
    """pycma looks for a file of commands when its stopping rules are asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cma_signals.in").write_text("{'timeout': 0}")
    strategy = restarting("ipop", variant=variant)
    advance(strategy, ellipsoid, 5)
    assert strategy.batch_size == 7
    assert [path.name for path in tmp_path.iterdir()] == ["cma_signals.in"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_ill_conditioned_ellipsoid_is_solved(variant):
    """The loss starts at about 300 (the sum of the scales, 10^0 to 10^2, at the start mean)."""
    z = advance(load(variant=variant), ellipsoid, 250)[-1]
    assert ellipsoid(z).min() < 1e-3


def test_ipop_doubles():
    schedule = IPOP(10, 0.5)
    assert schedule.first == Run(10, 0.5)
    assert [schedule.next(100) for _ in range(4)] == [Run(size, 0.5) for size in (20, 40, 80, 160)]


def test_bipop_alternates_as_worked_by_hand():
    """λ0 = 10, σ0 = 0.5; spent in brackets as (small, large).

    First run 100 (100, 0): large, 20. It takes 400 (100, 400): small; λ_large is 20, the ratio 1, so 10
    whatever U is; U = 1/2 gives 0.5 · 10^-1; half of 400 may be spent. It takes 200 (300, 400): small
    again. It takes 150 (450, 400): large, 40. It takes 800 (450, 1200): small; ratio 2, U = 1/2 gives
    10 · 2^(1/4) = 11.9; U = 1/4 gives 0.5 · 10^-0.5. It takes 750 (1200, 1200): equal, so large, 80. It
    takes 1000: small; ratio 4, U = 0.9 gives 10 · 4^0.81 = 30.7; U = 0 gives σ0.
    """
    draws = iter([0.7, 0.5, 0.1, 0.5, 0.5, 0.25, 0.9, 0.0])
    schedule = BIPOP(10, 0.5, lambda: next(draws))
    runs = [schedule.next(spent) for spent in (100, 400, 200, 150, 800, 750, 1000)]
    assert [run.population for run in runs] == [20, 10, 10, 40, 11, 80, 30]
    assert [run.sigma0 for run in runs] == pytest.approx([0.5, 0.05, 0.05, 0.5, 0.5 / 10**0.5, 0.5, 0.5])
    assert [run.limit for run in runs] == [np.inf, 200, 200, np.inf, 600, np.inf, 1100]


@given(st.lists(st.integers(1, 10_000), max_size=12), st.integers(3, 50), st.randoms(use_true_random=False))
def test_bipop_runs_the_regime_that_has_spent_less(spent, population, random):
    schedule, accounts, regime, largest = BIPOP(population, 0.5, random.random), [0, 0], 0, population
    for evaluations in spent:
        accounts[regime] += evaluations
        run = schedule.next(evaluations)
        regime = int(accounts[1] <= accounts[0])
        if regime:
            largest *= 2
            assert run == Run(largest, 0.5)
        else:
            assert population <= run.population <= max(population, largest // 2)
            assert 0.005 < run.sigma0 <= 0.5
            assert run.limit == accounts[1] / 2


def test_the_populations_of_a_flat_loss_double_until_the_budget_is_spent():
    """pycma ends a flat run after one generation: 7 + 14 + 28 + 56 + 112 of 300 leave 83, below 224."""
    strategy = restarting("ipop", budget=300)
    sizes = [len(rows) for rows in spend(strategy, flat, 300)]
    assert sizes == [7, 14, 28, 56, 112, 83]
    assert strategy.stopped


@pytest.mark.parametrize(("variant", "budget"), [("full", 51), ("vkd", 52)])
def test_a_search_stops_where_no_generation_fits(variant, budget):
    """7 + 14 + 28 = 49 leave one less than a generation needs."""
    strategy = restarting("ipop", budget, variant=variant)
    assert sum(map(len, spend(strategy, flat, budget))) == 49
    assert strategy.stopped
    before = strategy.state_dict()["losses"]
    assert advance(strategy, flat, 1)[0].isfinite().all()
    assert torch.equal(strategy.state_dict()["losses"], before)


@pytest.mark.parametrize("restarts", ["ipop", "bipop"])
def test_restarts_leave_local_minima(restarts):
    """First runs end beside the best basin, by 1 at least: of three seeds one has to find a better."""
    first = best = 0.0
    for seed in range(3):
        strategy = PyCMA(2, budget=2500, seed=seed, restarts=restarts, restart_above=0)
        losses = [rastrigin(rows) for rows in spend(strategy, rastrigin, 2500)]
        change = next(i for i, loss in enumerate(losses) if len(loss) != len(losses[0]))
        first += torch.cat(losses[:change]).min().item()
        best += torch.cat(losses).min().item()
    assert best < first - 0.5


@pytest.mark.parametrize("restarts", ["ipop", "bipop"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_restarts_keep_to_the_budget_and_continue_bit_for_bit(restarts, variant, tmp_path):
    """Saved one generation after the population changes, and near the end."""
    whole = spend(restarting(restarts, 500, variant=variant), rounded, 500)
    sizes = [len(row) for row in whole]
    assert 0 <= 500 - sum(sizes) < max(sizes)
    change = next(i for i in range(1, len(sizes)) if sizes[i] != sizes[0])
    for half in (change + 1, len(sizes) - 1):
        strategy = restarting(restarts, 500, variant=variant)
        advance(strategy, rounded, half)
        save_tensors(tmp_path / "state.safetensors", strategy.state_dict())
        resumed = restarting(restarts, 500, variant=variant)
        resumed.load_state_dict(load_tensors(tmp_path / "state.safetensors"))
        rest = spend(resumed, rounded, 500 - sum(sizes[:half]))
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[half:], strict=True))


def test_a_state_of_other_options_is_refused():
    strategy = load(population=8)
    advance(strategy, ellipsoid, 2)
    with pytest.raises(CheckpointError, match="expected the saved generations again") as error:
        load().load_state_dict(strategy.state_dict())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("restarts", ["ipop", "bipop"])
def test_below_its_budget_a_search_does_not_restart(restarts):
    """A flat loss ends a run of pycma's at once; 10,000 is where the rules begin to be asked."""
    below, above = (load(budget=budget, restarts=restarts) for budget in (9_999, 10_000))
    assert len({len(rows) for rows in advance(below, flat, 5)}) == 1
    assert not below.stopped
    assert len({len(rows) for rows in advance(above, flat, 5)}) > 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("slope", [0.0, 1.0], ids=["to the minimum", "downhill without end"])
def test_a_search_stops_before_its_arithmetic_fails(variant, slope):
    """Steps shrink or grow by a constant factor a generation: 1e-50 and 1e50 come within 2,000."""

    def objective(z):
        return slope * z.sum(1) + (1 - slope) * (z - 1).square().sum(1)

    strategy = load(1, variant=variant)
    rows = spend(strategy, objective, 2000 * strategy.batch_size)
    assert strategy.stopped
    assert all(row.isfinite().all() for row in rows)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"population": 2}, "population of at least 3, found 2"),
        ({"population": 3, "variant": "vkd"}, "population of at least 4, found 3"),
        ({"sigma0": 0.0}, "sigma0 above 0 and finite, found 0"),
        ({"sigma0": float("nan")}, "sigma0 above 0 and finite, found nan"),
        ({"sigma0": float("inf")}, "sigma0 above 0 and finite, found inf"),
        ({"mean": float("inf")}, "expected a finite mean, found inf"),
        ({"restart_above": -1}, "restart_above of at least 0, found -1"),
    ],
)
def test_bad_options_are_refused(options, reason):
    with pytest.raises(InputError, match=reason) as error:
        load(**options)
    assert "\n" not in str(error.value)
