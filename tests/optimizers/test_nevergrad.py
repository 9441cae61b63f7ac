"""Nevergrad's optimizers: whole generations lose nothing, and the published GGL loop loses most."""

import itertools
import threading
import warnings

import nevergrad
import numpy as np
import pytest
import torch

from ggl.base.errors import CheckpointError, InputError, UnknownNameError
from ggl.optimizers.libraries.nevergrad import Nevergrad
from ggl.optimizers.libraries.nevergrad_ggl import NevergradCMAGGL

REPRESENTATIVES = (
    "CMA",
    "DiagonalCMA",
    "VLPCMA",
    "DE",
    "TwoPointsDE",
    "PSO",
    "OnePlusOne",
    "NGOpt",
    "NGOpt10",
    "ScrHammersleySearch",
    "CauchyLHSSearch",
    "TBPSA",
    "RescaledCMA",
    "SPSA",
    "Cobyla",
)
DIM, BUDGET = 8, 72


def sphere(z):
    return (z - 1).square().sum(1)


def advance(strategy, evaluations, objective=sphere):
    """Search and return all losses in the order of asking."""
    losses = []
    while (len(losses) + 1) * strategy.batch_size <= evaluations:
        z = strategy.ask()
        losses.append(objective(z))
        strategy.tell(z, losses[-1])
    return torch.cat(losses)


def ellipsoid(dim, seed):
    """Return a rotated ellipsoid of condition 100 about a point at the same distance from 0 and the box."""
    random = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=random, dtype=torch.float64))[0]
    center = 0.25 + torch.randn(dim, generator=random, dtype=torch.float64)
    weights = torch.logspace(0, 2, dim, dtype=torch.float64)
    return lambda z: ((z - center) @ rotation).square() @ weights


class Spy:
    """Counts the generations that pycma takes and those that it refuses."""

    def __init__(self, monkeypatch):
        from cma.evolution_strategy import CMAEvolutionStrategy

        self.taken, self.refused = [], 0
        tell = CMAEvolutionStrategy.tell

        def spy(search, solutions, values):
            try:
                tell(search, solutions, values)
            except RuntimeError:
                self.refused += 1
                raise
            self.taken.append((np.array(solutions), np.array(values)))

        monkeypatch.setattr(CMAEvolutionStrategy, "tell", spy)


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


@pytest.mark.parametrize(
    ("dim", "options", "size"),
    [
        (128, {}, 18),
        (512, {}, 53),  # CMApara: 4 + ⌊8 ln 512⌋
        (16, {"population": 50}, 50),
        (16, {"optimizer": "DiagonalCMA"}, 12),
        (16, {"optimizer": "RescaledCMA"}, 12),
        (16, {"optimizer": "NGOpt"}, 12),
    ],
)
def test_every_generation_reaches_pycma_once_and_in_order(spy, dim, options, size):
    strategy = Nevergrad(dim, budget=4000, seed=0, **options)
    assert strategy.batch_size == size
    losses = advance(strategy, 4 * size)
    assert spy.refused == 0
    assert [len(values) for _, values in spy.taken] == [size] * 4
    assert np.array_equal(np.concatenate([values for _, values in spy.taken]), losses.numpy())


def test_the_published_loop_loses_two_evaluations_of_three(spy):
    strategy = NevergradCMAGGL(128, budget=25_000, seed=0)
    rounds = 45
    losses = advance(strategy, rounds * 50)
    taken = np.concatenate([values for _, values in spy.taken])
    # pycma draws ⌈50 · rounds / 18⌉ populations of 18 and takes at most one after each draw of a round;
    # with 18 · 25 = 9 · 50 the pattern repeats after 9 rounds of 50, each of which takes one.
    assert len(taken) == rounds * 18
    assert set(taken) <= set(losses.tolist())
    assert spy.refused * 18 == 50 * rounds - len(taken)


@pytest.mark.slow("long searches, compared")
@pytest.mark.parametrize("seed", [0, 1])
def test_whole_generations_end_lower_than_the_published_loop(seed):
    objective, budget = ellipsoid(128, seed), 1500
    whole = advance(Nevergrad(128, budget=budget, seed=seed), budget, objective)
    published = advance(NevergradCMAGGL(128, budget=budget, seed=seed, tanh=False), budget, objective)
    assert whole.min() < 0.75 * published.min()


def test_the_published_loop_is_that_of_a_plain_nevergrad():
    """A slow oracle: the same loop written out, from the same random states."""
    strategy = NevergradCMAGGL(DIM, budget=3000, seed=4)
    start = np.random.RandomState(strategy._seed_of("start")).random_sample(DIM)
    parametrization = nevergrad.p.Array(init=start)
    parametrization.random_state = np.random.RandomState(strategy._seed_of("optimizer"))
    optimizer = nevergrad.optimizers.registry["CMA"](parametrization=parametrization, budget=60)
    for _ in range(4):
        candidates = [optimizer.ask() for _ in range(50)]
        x = torch.tanh(torch.from_numpy(np.stack([candidate.value for candidate in candidates])))
        z = strategy.ask()
        assert torch.equal(z, x)
        shuffled = torch.randperm(50, generator=torch.Generator().manual_seed(0))
        strategy.tell(z[shuffled], sphere(z)[shuffled])
        for candidate, loss in zip(candidates, sphere(x).tolist(), strict=True):
            optimizer.tell(candidate, loss)


def test_tanh_is_an_option():
    bounded, free = (NevergradCMAGGL(DIM, budget=500, seed=0, tanh=tanh).ask() for tanh in (True, False))
    assert torch.equal(bounded, free.tanh())
    assert free.abs().max() > 1


def test_the_published_loop_starts_in_the_unit_box():
    starts = [NevergradCMAGGL(128, budget=25_000, seed=seed, tanh=False).ask().mean(0) for seed in range(4)]
    # The mean of 4 · 128 uniform coordinates, each seen with noise of σ 0.47 / √50: 5 standard errors.
    assert torch.stack(starts).mean() == pytest.approx(0.5, abs=5 * (1 / 12 + 0.47**2 / 50) ** 0.5 / 512**0.5)


@pytest.mark.slow("fifteen optimizers")
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_representative_optimizers_search_and_resume(name):
    budget = 900 if name == "VLPCMA" else BUDGET  # its population is 4 + ⌊100 ln d⌋ = 211

    def start():
        return Nevergrad(DIM, budget=budget, seed=1, optimizer=name)

    strategy = start()
    losses = advance(strategy, budget // 2)
    assert losses.isfinite().all()
    resumed = start()
    resumed.load_state_dict(strategy.state_dict())
    rest = budget - len(losses)
    ends = advance(strategy, rest)
    np.random.seed(5)
    assert torch.equal(advance(resumed, rest), ends)


def test_a_search_that_waits_in_a_thread_does_not_keep_python_from_ending():
    threads = set(threading.enumerate())
    strategy = Nevergrad(DIM, budget=BUDGET, seed=0, optimizer="Cobyla")
    strategy.ask()
    begun = set(threading.enumerate()) - threads
    assert begun
    assert all(thread.daemon for thread in begun)


@pytest.mark.slow("six optimizers")
@pytest.mark.parametrize("name", ["CMA", "DE", "NGOpt", "Cobyla", "MultiLN", "RotatedTwoPointsDE"])
def test_global_random_states_are_neither_read_nor_changed(name):
    runs = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].copy()
        runs.append(advance(Nevergrad(DIM, budget=BUDGET, seed=1, optimizer=name), BUDGET))
        assert np.array_equal(np.random.get_state()[1], before)
    assert torch.equal(*runs)


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_sigma_scales_the_first_generation(sigma):
    unit, scaled = (Nevergrad(DIM, budget=1000, seed=0, sigma=s).ask() for s in (1.0, sigma))
    assert torch.allclose(scaled, sigma * unit, rtol=1e-12)


def test_cma_starts_at_0_with_nevergrads_step_size():
    z = Nevergrad(256, budget=1000, seed=0).ask()
    # Of n = 5,120 draws: the deviation's standard error is σ / √(2n), the mean's σ / √n; 5 of each.
    sigma = 0.4699
    assert z.std() == pytest.approx(sigma, abs=5 * sigma / (2 * z.numel()) ** 0.5)
    assert z.mean() == pytest.approx(0, abs=5 * sigma / z.numel() ** 0.5)


@pytest.mark.parametrize("name", ["CMA", "DiagonalCMA"])
def test_a_converged_cma_has_stopped_instead_of_starting_anew(name):
    strategy = Nevergrad(2, budget=100_000, seed=0, optimizer=name)
    for generation in itertools.count():
        z = strategy.ask()
        strategy.tell(z, sphere(z))
        if strategy.stopped:
            break
        assert generation < 500
    assert sphere(z).min() < 1e-9


def test_a_finished_scipy_optimizer_has_stopped():
    strategy = Nevergrad(2, budget=10, seed=0, optimizer="NelderMead")
    for _ in range(30):  # SciPy is started anew until the budget is spent
        z = strategy.ask()
        strategy.tell(z, sphere(z))
    assert strategy.stopped


def test_a_search_that_does_not_repeat_itself_is_not_resumed():
    strategy, other = Nevergrad(DIM, budget=BUDGET, seed=0), Nevergrad(DIM, budget=BUDGET, seed=1)
    advance(strategy, BUDGET)
    with pytest.raises(CheckpointError, match="expected the saved generations again"):
        other.load_state_dict(strategy.state_dict())


def test_a_resumed_search_has_stopped_as_well():
    strategy, resumed = (Nevergrad(2, budget=100_000, seed=0) for _ in range(2))
    while not strategy.stopped:
        z = strategy.ask()
        strategy.tell(z, torch.zeros(len(z)))
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.stopped
    assert torch.equal(resumed.ask(), strategy.ask())


def test_a_refusal_that_nevergrad_passes_over_is_an_error():
    strategy = Nevergrad(DIM, budget=1000, seed=0)
    z = strategy.ask()
    strategy._cma._es._flgtelldone = True
    with pytest.raises(InputError, match=r"^Nevergrad's CMA: .*pycma refused a generation.*$"):
        strategy.tell(z, sphere(z))


def test_a_warning_of_nevergrad_is_an_error(monkeypatch):
    strategy = Nevergrad(DIM, budget=1000, seed=0)
    z = strategy.ask()
    message = "constraint not met"
    monkeypatch.setattr(
        strategy._optimizer,
        "tell",
        lambda *_: warnings.warn(message, nevergrad.errors.FailedConstraintWarning, stacklevel=1),
    )
    with pytest.raises(InputError, match=message):
        strategy.tell(z, sphere(z))


def test_losses_beyond_nevergrads_largest_are_taken():
    strategy = Nevergrad(DIM, budget=1000, seed=0, optimizer="DE")
    z = strategy.ask()
    strategy.tell(z, sphere(z) * 1e30)
    assert strategy.ask().isfinite().all()


def test_an_unknown_optimizer_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="'diagonalCMA'; the nearest: DiagonalCMA, "):
        Nevergrad(DIM, budget=100, seed=0, optimizer="diagonalCMA")


def test_a_population_that_cma_does_not_take_is_refused_with_one_that_it_does():
    with pytest.raises(InputError, match=r"found 21, .*give population=26"):
        Nevergrad(16, budget=1000, seed=0, population=21)
    assert Nevergrad(16, budget=1000, seed=0, population=26).batch_size == 26


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "Cobyla", "population": 4}, "one candidate at a time"),
        ({"optimizer": "FCMA"}, "fcmaes"),
        ({"sigma": 0.0}, "expected sigma above 0, found 0"),
        ({"population": 0}, "at least 1 candidate"),
    ],
)
def test_what_cannot_search_is_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        Nevergrad(DIM, budget=100, seed=0, **options).ask()
    assert "\n" not in str(caught.value)


def test_one_dimension_of_a_fixed_cma_is_refused_and_does_no_harm():
    with pytest.raises(InputError, match="at least 2 latent dimensions"):
        Nevergrad(1, budget=100, seed=0, optimizer="DiagonalCMA")
    assert Nevergrad(2, budget=100, seed=0, optimizer="DiagonalCMA").ask().shape == (6, 2)
