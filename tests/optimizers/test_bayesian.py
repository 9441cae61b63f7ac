"""The Bayesian strategies: their models, acquisitions and trust regions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, multivariate_normal, norm, truncnorm

from ggl.base.errors import InputError
from ggl.optimizers.bayesian import surrogate as gp_model
from ggl.optimizers.bayesian.composite import principal_residuals, squared_residual
from ggl.optimizers.bayesian.design import best_rows, normal_design
from ggl.optimizers.bayesian.gp import GaussianProcess
from ggl.optimizers.bayesian.trust_region import TrustRegion, box, perturb
from ggl.optimizers.bayesian.turbo import TuRBO
from ggl.optimizers.residuals import Residuals

DIM = 6
CPU = torch.device("cpu")
NONE = torch.empty(0, dtype=torch.float64)
KINDS = {"bo": GaussianProcess, "turbo": TuRBO}


def load(kind, **options):
    settings = {"population": 4, "initial": 8, "device": "cpu"} | options
    return KINDS[kind](DIM, budget=100, seed=3, **settings)


def sphere(z):
    return (z - 1).square().sum(1)


def residuals_of(z):
    """Eight numbers of which the target is wanted: a linear map, bent a little."""
    maps = torch.randn(DIM, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    target = torch.ones(1, DIM, dtype=torch.float64) @ maps
    values = z @ maps + 0.1 * (z @ maps).sin()
    return Residuals(values[:, None], (target + 0.1 * target.sin())[0], unit=False)


def advance(strategy, generations, objective=sphere):
    rows = []
    for _ in range(generations):
        rows.append(strategy.ask())
        told = residuals_of(rows[-1]) if strategy.needs_residuals else None
        strategy.tell(rows[-1], objective(rows[-1]), None, told)
    return torch.cat(rows)


def data(n=20, dim=DIM):
    x = torch.rand(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, (x - 0.3).square().sum(1)


def surrogate(kind="global"):
    x, loss = data()
    with gp_model.isolated(0, CPU):
        return gp_model.fit(x, loss[:, None], kind, NONE)


def kernel_matrix(model, x):
    """The local kernel, entry by entry: s² (1 + √5 r + 5/3 r²) exp(-√5 r), r scaled by the length scales."""
    scales = gp_model.length_scales(model)
    r = torch.stack([((a - x) / scales).square().sum(1).sqrt() for a in x]) * math.sqrt(5)
    return model.covar_module.outputscale.item() * (1 + r + r.square() / 3) * torch.exp(-r)


# Models


def test_a_model_predicts_what_the_equations_of_a_gaussian_process_say():
    """Rasmussen and Williams 2006, equations 2.25 and 2.26, with a constant mean."""
    fitted = surrogate("local")
    x, loss = data()
    new = torch.rand(3, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    k = kernel_matrix(fitted.model, torch.cat([x, new]))
    mean = fitted.model.mean_module.constant.item()
    noisy = k[:20, :20] + fitted.model.likelihood.noise.item() * torch.eye(20)
    score = gp_model.standardize(loss[:, None])[0][:, 0]
    weights = torch.linalg.solve(noisy, k[:20, 20:])
    expected = mean + weights.T @ (score - mean)
    covariance = k[20:, 20:] - k[20:, :20] @ weights
    with gp_model.isolated(0, CPU), torch.no_grad():
        posterior = fitted.model(new)
        assert torch.allclose(posterior.mean, expected, atol=1e-6)
        assert torch.allclose(posterior.covariance_matrix, covariance, atol=1e-6)


def test_thompson_draws_have_the_posterior_mean_and_covariance():
    """k = 20,000 draws: means within 5 σ/√k, covariances within 5 √2 σ²/√k."""
    fitted, k = surrogate("local"), 20_000
    x = torch.rand(4, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    normal = torch.randn(k, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with gp_model.isolated(0, CPU), torch.no_grad():
        draws = gp_model.thompson(fitted.model, x, normal)
        posterior = fitted.model(x)
        largest = posterior.variance.max().item()
        assert (draws.mean(0) - posterior.mean).abs().max() < 5 * math.sqrt(largest / k)
        bound = 5 * math.sqrt(2) * largest / math.sqrt(k) + 2e-6
        assert (draws.T.cov() - posterior.covariance_matrix).abs().max() < bound


@pytest.mark.parametrize("kind", ["global", "local"])
def test_a_fit_raises_the_likelihood(kind):
    def likelihood(fitted):
        model = fitted.model
        with torch.no_grad():
            prior = model.forward(x)
            noisy = prior.covariance_matrix + model.likelihood.noise * torch.eye(len(x))
            return multivariate_normal(prior.mean.numpy(), noisy.numpy()).logpdf(model.train_targets.numpy())

    x, loss = data()
    with gp_model.isolated(0, CPU):
        start = gp_model.fit(x, loss[:, None], kind, NONE, steps=0)
        assert likelihood(gp_model.fit(x, loss[:, None], kind, NONE)) > likelihood(start) + 1


@given(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=20))
@settings(max_examples=50)
def test_scores_are_standardized_and_turn_back_into_losses(losses):
    loss = torch.tensor(losses, dtype=torch.float64)
    score, center, scale = gp_model.standardize(loss[:, None])
    assert score.isfinite().all()
    size = loss.abs().max()
    assert torch.allclose(center - scale * score[:, 0], loss, rtol=1e-9, atol=1e-9 * float(size) + 1e-290)
    if size and (loss / size).std(correction=0) > 1e-6:  # of the losses as they are, a square can overflow
        assert score.mean().abs() < 1e-6
        assert abs(score.std(correction=0) - 1) < 1e-6


def test_equal_losses_have_scores_of_zero():
    assert not gp_model.standardize(torch.full((5, 1), 0.1, dtype=torch.float64))[0].any()


# LogEI


def test_one_point_of_log_ei_beats_a_slow_search():
    """The closed form of expected improvement, (μ - best) Φ(u) + σ φ(u), on 20,000 points of the box."""
    fitted = surrogate()
    raw = torch.rand(256, DIM, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    corners = torch.stack([torch.zeros(DIM), torch.ones(DIM)]).double()

    def improvement(points):
        with torch.no_grad():
            posterior = fitted.model(points)
        sigma = posterior.variance.sqrt().numpy()
        better = posterior.mean.numpy() - fitted.model.train_targets.max().item()
        return better * norm.cdf(better / sigma) + sigma * norm.pdf(better / sigma)

    with gp_model.isolated(0, CPU):
        found = gp_model.greedy_log_ei(fitted, raw, corners, 1, seed=0)
        many = torch.rand(20_000, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        assert improvement(found).item() >= np.concatenate([improvement(p) for p in many.split(500)]).max()


def test_a_greedy_batch_has_more_joint_improvement_than_its_best_point_or_a_random_batch():
    """E max(max Y - best, 0) by 100,000 plain Monte Carlo draws of the joint posterior."""
    fitted = surrogate()
    generator = torch.Generator().manual_seed(4)
    raw = torch.rand(256, DIM, generator=generator, dtype=torch.float64)
    corners = torch.stack([torch.zeros(DIM), torch.ones(DIM)]).double()
    normal = torch.randn(100_000, 4, generator=generator, dtype=torch.float64)

    def improvement(points):
        draws = gp_model.thompson(fitted.model, points, normal[:, : len(points)])
        return (draws.max(1).values - fitted.model.train_targets.max()).clamp_min(0).mean().item()

    with gp_model.isolated(0, CPU):
        batch = gp_model.greedy_log_ei(fitted, raw, corners, 4, seed=0)
        assert ((batch >= 0) & (batch <= 1)).all()
        joint = improvement(batch)
        assert joint > 1.05 * max(improvement(point[None]) for point in batch)
        assert joint > max(improvement(raw[4 * i : 4 * i + 4]) for i in range(64))


# Residuals


def test_principal_residuals_and_what_is_left_make_the_squared_residual():
    residuals = torch.randn(12, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    for count in (1, 4, 11, 100):
        numbers = principal_residuals(residuals, count)
        assert numbers.shape == (12, count + 1)
        assert torch.allclose(squared_residual(numbers), residuals.square().sum(1))
    centered = residuals - residuals.mean(0)
    expected = torch.linalg.svdvals(centered)[:4].square()
    assert torch.allclose(
        principal_residuals(residuals, 4)[:, :4].var(0, correction=0).flip(0) * 12, expected
    )


def test_equal_residuals_have_no_direction():
    numbers = principal_residuals(torch.ones(5, 3, dtype=torch.float64), 2)
    assert torch.allclose(numbers, torch.tensor([0.0, 0.0, 3.0]).double())


def test_a_composite_search_is_ahead_of_one_that_is_told_losses():
    def least(**options):
        return objective(advance(load("bo", **options), 8, objective)).min().log10()

    def objective(z):
        told = residuals_of(z)
        values, target = told.compared()
        return (values - target).square().sum(1)

    assert least(composite=True) < least() - 0.5


def test_residuals_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"^bo: expected residuals of at least 1, found 0$"):
        load("bo", residuals=0)


# Trust regions


def test_a_region_doubles_after_three_successes_up_to_its_longest():
    region = TrustRegion(DIM)
    lengths = []
    for _ in range(6):
        region.update(True, 4)
        lengths.append(region.length)
    assert lengths == [0.8, 0.8, 1.6, 1.6, 1.6, 1.6]


@pytest.mark.parametrize(
    ("dim", "q", "batches"), [(64, 20, 4), (64, 64, 1), (64, 100, 1), (6, 4, 2), (2, 1, 4)]
)
def test_a_region_halves_after_the_failures_of_the_paper(dim, q, batches):
    """ceil(max(4/q, d/q)) batches, arXiv 1910.01739."""
    region = TrustRegion(dim)
    for _ in range(batches - 1):
        region.update(False, q)
    assert region.length == 0.8
    region.update(False, q)
    assert (region.length, region.failures) == (0.4, 0)


def test_successes_and_failures_count_only_in_a_row():
    region = TrustRegion(dim=8)
    for improved in [True, True, False, True, True, False, True, True]:
        region.update(improved, 4)
    assert (region.length, region.successes, region.failures) == (0.8, 2, 0)


def test_a_region_collapses_below_its_shortest():
    region = TrustRegion(dim=4)
    halvings = 0
    while not region.collapsed:
        region.update(False, 4)
        halvings += 1
    assert halvings == 7  # 0.8 / 2^7 < 0.5^7 < 0.8 / 2^6


@given(st.lists(st.floats(0.01, 2), min_size=2, max_size=20), st.floats(0.01, 1.6))
def test_sides_follow_the_length_scales_and_have_the_length_as_geometric_mean(scales, length):
    scales = torch.tensor(scales, dtype=torch.float64)
    # a thousandth of the length, so that nothing is clipped
    corners = box(torch.full_like(scales, 0.5), 1e-3 * length, scales)
    sides = corners[1] - corners[0]
    assert sides.log().mean().exp().item() == pytest.approx(1e-3 * length, rel=1e-9)
    assert torch.allclose(sides / sides[0], scales / scales[0], rtol=1e-6)


def test_a_region_is_clipped_to_the_box():
    corners = box(torch.tensor([0.0, 0.9]).double(), 0.4, torch.ones(2).double())
    assert torch.allclose(corners, torch.tensor([[0.0, 0.7], [0.2, 1.0]]).double())


@pytest.mark.parametrize("dim", [2, 20, 64, 200])
def test_a_coordinate_moves_with_probability_20_over_d(dim):
    """n·d Bernoulli draws: the share lies within 5 standard errors; the forced one adds (1-p)^d / d."""
    n, p = 2000, min(1.0, 20 / dim)
    center = torch.full((dim,), 0.5, dtype=torch.float64)
    points = perturb(center, torch.stack([center - 0.1, center + 0.1]), n, seed=1)
    moved = points != center
    expected = p + (1 - p) ** dim / dim
    assert abs(moved.double().mean() - expected) <= 5 * math.sqrt(p * (1 - p) / (n * dim)) + 1e-9
    assert moved.any(1).all()
    assert ((points - center).abs() <= 0.1 + 1e-12).all()
    assert len(points.unique(dim=0)) == n


def told(strategy, values):
    """Tell hand-made losses, one list a generation."""
    for value in values:
        strategy.tell(strategy.ask(), torch.full((4,), value, dtype=torch.float64))


def test_a_design_leaves_the_length_alone_and_batches_move_it():
    turbo = load("turbo")
    told(turbo, [10.0, 9.0])
    assert turbo.regions[0].successes == 0
    told(turbo, [8.0, 7.0, 6.0])
    assert turbo.regions[0].length == 1.6
    told(turbo, [6.0, 6.0])
    assert turbo.regions[0].length == 0.8


def test_a_collapsed_region_starts_anew_with_another_design():
    turbo = load("turbo")
    first = advance(turbo, 2, lambda z: torch.ones(4).double())
    for _ in range(14):
        turbo.tell(turbo.ask(), torch.ones(4).double())
    assert turbo.starts == [1]
    assert turbo.regions == [TrustRegion(DIM)]
    second = advance(turbo, 2, lambda z: torch.ones(4).double())
    assert not torch.isclose(first, second).any()
    assert turbo.state_dict()["owner"].tolist() == [-1] * 64 + [0] * 8


def test_thompson_candidates_lie_in_the_region():
    turbo = load("turbo")
    z = advance(turbo, 3)
    turbo.regions[0].length = 0.1
    best = z[sphere(z).argmin()]
    other = load("turbo")
    other.load_state_dict(turbo.state_dict())
    with gp_model.isolated(0, CPU):
        _, corners, _ = other._model(0)
    asked = turbo.ask() / 4 + 0.5
    assert ((asked >= corners[0] - 1e-12) & (asked <= corners[1] + 1e-12)).all()
    assert ((corners[0] <= best / 4 + 0.5) & (best / 4 + 0.5 <= corners[1])).all()


def test_a_batch_goes_to_the_region_whose_losses_are_lower():
    """The bandit of TuRBO-m: one region's losses lie 100 below the other's."""
    turbo = load("turbo", regions=2)
    for shift in (0, 0, 100, 100):
        z = turbo.ask()
        turbo.tell(z, sphere(z) - shift)
    advance(turbo, 2, lambda z: sphere(z) - 100)
    assert turbo.state_dict()["owner"].tolist() == [0] * 8 + [1] * 16


def test_a_batch_takes_no_candidate_twice():
    turbo = load("turbo", candidates=8)
    advance(turbo, 2)
    assert len(turbo.ask().unique(dim=0)) == 4


# Strategies


more = pytest.mark.slow("one more variant that fits Gaussian processes")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bo", {}),
        ("bo", {"composite": True, "residuals": 3}),
        pytest.param("bo", {"population": 1, "initial": 2}, marks=more),
        ("turbo", {}),
        pytest.param("turbo", {"regions": 2}, marks=more),
        pytest.param("turbo", {"acquisition": "logei"}, marks=more),
    ],
)
class TestEveryVariant:
    def test_it_stays_in_the_box(self, kind, options):
        assert advance(load(kind, bound=0.7, **options), 6).abs().max() <= 0.7

    def test_it_continues_bit_for_bit_after_each_generation(self, kind, options):
        whole, resumed = load(kind, **options), load(kind, **options)
        for _ in range(7):
            z = whole.ask()
            assert torch.equal(resumed.ask(), z)
            whole.tell(z, sphere(z), None, residuals_of(z) if whole.needs_residuals else None)
            resumed = load(kind, **options)
            resumed.load_state_dict(whole.state_dict())

    def test_global_random_states_are_neither_read_nor_changed(self, kind, options):
        expected = advance(load(kind, **options), 5)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(77)
            before = torch.get_rng_state(), np.random.get_state()[1].copy()
            assert torch.equal(advance(load(kind, **options), 5), expected)
            assert torch.equal(torch.get_rng_state(), before[0])
            assert np.array_equal(np.random.get_state()[1], before[1])

    @pytest.mark.parametrize("value", [0.0, 1.0, 1e300])
    def test_equal_losses_are_survived(self, kind, options, value):
        z = advance(load(kind, **options), 5, lambda z: torch.full((len(z),), value, dtype=torch.float64))
        assert z.isfinite().all()

    def test_a_failed_fit_is_counted_and_replaced_by_the_defaults(self, kind, options, monkeypatch):
        def fail(*arguments, **options):
            raise gp_model.NotPSDError("not positive definite")

        monkeypatch.setattr(gp_model, "fit_gpytorch_mll_scipy", fail)
        strategy = load(kind, **options)
        assert advance(strategy, 6).isfinite().all()
        assert strategy.failed_fits > 0

    def test_a_large_budget_is_refused_unless_forced(self, kind, options):
        with pytest.raises(InputError, match=r"at most 5000, found 5001.*cube.*force=1"):
            KINDS[kind](DIM, budget=5001, seed=0, **options)
        assert KINDS[kind](DIM, budget=5001, seed=0, force=True, **options).ask().shape[1] == DIM
        assert KINDS[kind](DIM, budget=5000, seed=0, **options).ask().shape[1] == DIM


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_sees_no_more_than_the_cap(kind, monkeypatch):
    seen, fit = [], gp_model.fit
    monkeypatch.setattr(
        gp_model, "fit", lambda x, *rest, **more: seen.append(len(x)) or fit(x, *rest, **more)
    )
    advance(load(kind, cap=10), 5)
    assert seen == [8, 10, 10]


@pytest.mark.slow("a whole budget of Gaussian processes")
@pytest.mark.parametrize(("kind", "bound"), [("bo", 0.6), ("turbo", 1.5)])
def test_the_sphere_is_searched_better_than_at_random(kind, bound):
    """100 evaluations in 6 dimensions, where the best of 100 standard normal points has a loss of about 2."""
    assert sphere(advance(load(kind), 25)).min() < bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{"bound": 0.0}, {"bound": math.inf}, {"cap": 1}, {"initial": 1}], ids=lambda o: next(iter(o))
)
def test_options_out_of_range_are_refused(kind, options):
    with pytest.raises(InputError, match="expected"):
        load(kind, **options)


@pytest.mark.parametrize(
    "options", [{"regions": 0}, {"regions": 2, "acquisition": "logei"}, {"candidates": 7}]
)
def test_what_turbo_cannot_do_is_refused(options):
    with pytest.raises(InputError, match="turbo: expected"):
        load("turbo", **options)


def test_the_initial_design_is_whole_generations():
    assert load("turbo", initial=9).initial == 12
    assert GaussianProcess(64, budget=500, seed=0).initial == 50
    assert TuRBO(64, budget=500, seed=0).initial == 100


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_the_initial_design_is_a_truncated_normal(bound):
    """1,024 scrambled Sobol points: the distance to the distribution function is below the 1e-6 bound for
    independent draws, sqrt(ln(2e6) / 2n) (Dvoretzky, Kiefer, Wolfowitz, Massart)."""
    z = normal_design(1024, 3, bound, seed=1)
    assert z.abs().max() < bound
    for column in z.T.numpy():
        distance = kstest(column, truncnorm(-bound, bound).cdf).statistic
        assert distance < math.sqrt(math.log(2e6) / 2048)


def test_the_initial_design_of_a_huge_box_is_finite():
    assert normal_design(4096, 3, 100.0, seed=1).isfinite().all()


def test_the_best_rows_are_in_the_order_they_were_told():
    assert best_rows(torch.tensor([3.0, 1.0, 1.0, 2.0]).double(), 3).tolist() == [1, 2, 3]


@pytest.mark.parametrize(("kind", "regions"), [("bo", {}), ("turbo", {}), ("turbo", {"regions": 5})])
def test_a_budget_that_the_initial_design_uses_up_is_refused(kind, regions):
    """Else a Sobol design would be reported as a search by a model."""
    initial = 100 // regions.get("regions", 1)
    with pytest.raises(InputError, match="above the initial design's 100 evaluations, found 100"):
        load(kind, initial=initial, **regions)
    assert load(kind, initial=initial - 4, **regions).initial == initial - 4
