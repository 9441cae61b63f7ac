"""L-BFGS and BasinCMA: each against the algorithm that it is, and for what it promises."""

import math
import statistics

import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.optimizers.cmaes.strategies import CMAES
from ggl.optimizers.gradient.adam import Adam
from ggl.optimizers.gradient.basin_cma import BasinCMA
from ggl.optimizers.gradient.lbfgs import LBFGS, two_loop

DIM = 10


def rotated_ellipsoid(dim, condition=1e3, seed=0):
    """Return a quadratic of this condition number, its axes rotated, its minimum 0 at (1, ..., 1)."""
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=stream(seed, "axes"), dtype=torch.float64))[0]
    scale = torch.logspace(0, math.log10(condition), dim, dtype=torch.float64)
    return lambda z: (scale * ((z - 1) @ axes).square()).sum(1)


def rosenbrock(z):
    return (100 * (z[:, 1:] - z[:, :-1].square()).square() + (1 - z[:, :-1]).square()).sum(1)


def waves(z):
    """Rastrigin's function on a grid of wells 1 apart, its minimum 0 at 0.3."""
    z = z - 0.3
    return (z.square() + 0.5 * (1 - (2 * torch.pi * z).cos())).sum(1)


def with_gradient(objective, z):
    z = z.clone().requires_grad_()
    loss = objective(z)
    return loss.detach(), torch.autograd.grad(loss.sum(), z)[0]


def advance(strategy, objective, generations):
    """Tell whole generations and return their latents and losses."""
    rows, losses = [], []
    for _ in range(generations):
        rows.append(strategy.ask())
        loss, gradient = with_gradient(objective, rows[-1])
        strategy.tell(rows[-1], loss, gradient)
        losses.append(loss)
    return torch.stack(rows), torch.stack(losses)


def lbfgs(dim=DIM, seed=0, **options):
    return LBFGS(dim, budget=400, seed=seed, **options)


def basin(dim=DIM, seed=0, **options):
    return BasinCMA(dim, budget=400, seed=seed, **options)


# L-BFGS


def pairs_of_a_quadratic(rows, memory, dim, seed=0):
    """Return pairs (s, y = A s) of positive curvature, a matrix A each row."""
    random = stream(seed, "pairs")
    root = torch.randn(rows, dim, dim, generator=random, dtype=torch.float64)
    moves = torch.randn(rows, memory, dim, generator=random, dtype=torch.float64)
    return moves, moves @ (root @ root.mT + torch.eye(dim, dtype=torch.float64))


def inverse_hessian(moves, changes):
    """Return H of the dense BFGS update, Nocedal & Wright, equation 6.17, from γ I (7.20)."""
    one = torch.eye(moves.shape[1], dtype=torch.float64)
    h = (moves[-1] @ changes[-1]) / (changes[-1] @ changes[-1]) * one
    for s, y in zip(moves, changes, strict=True):
        rho = 1 / (s @ y)
        h = (one - rho * torch.outer(s, y)) @ h @ (one - rho * torch.outer(y, s)) + rho * torch.outer(s, s)
    return h


@pytest.mark.parametrize("empty", [0, 3])
@pytest.mark.parametrize(("memory", "dim"), [(1, 4), (5, 4), (5, 12)])
def test_the_two_loop_recursion_is_the_dense_bfgs_product(memory, dim, empty):
    moves, changes = pairs_of_a_quadratic(3, memory, dim)
    gradient = torch.randn(3, dim, generator=stream(0, "gradient"), dtype=torch.float64)
    expected = torch.stack(
        [inverse_hessian(s, y) @ g for s, y, g in zip(moves, changes, gradient, strict=True)]
    )
    none = torch.zeros(3, empty, dim, dtype=torch.float64)
    padded = torch.cat((none, moves), dim=1), torch.cat((none, changes), dim=1)
    torch.testing.assert_close(two_loop(gradient, *padded), expected, rtol=1e-9, atol=1e-9)


def test_the_newest_pair_satisfies_the_secant_equation():
    moves, changes = pairs_of_a_quadratic(2, 4, 6)
    torch.testing.assert_close(two_loop(changes[:, -1], moves, changes), moves[:, -1])


def test_without_pairs_the_inverse_hessian_is_the_identity():
    gradient = torch.arange(6.0, dtype=torch.float64).view(2, 3)
    none = torch.zeros(2, 4, 3, dtype=torch.float64)
    assert torch.equal(two_loop(gradient, none, none), gradient)


@pytest.mark.parametrize("seed", range(3))
def test_l_bfgs_reaches_the_minimum_that_scipys_l_bfgs_b_reaches(seed):
    objective = rotated_ellipsoid(DIM)
    rows, losses = advance(lbfgs(seed=seed, starts=1), objective, 120)

    def value_and_gradient(x):
        loss, gradient = with_gradient(objective, torch.from_numpy(x)[None])
        return loss.item(), gradient[0].numpy()

    found = scipy.optimize.minimize(
        value_and_gradient, rows[0, 0].numpy(), jac=True, method="L-BFGS-B", tol=1e-14
    )
    assert losses.min() < 1e-8
    best = rows.flatten(0, 1)[losses.argmin()]
    torch.testing.assert_close(best, torch.from_numpy(found.x), rtol=0.0, atol=1e-4)


def test_a_quadratic_takes_few_generations():
    """d exact line searches would do in exact arithmetic; inexact ones take a few times as many."""
    assert (advance(lbfgs(), rotated_ellipsoid(DIM, 1e2), 60)[1].min(0).values < 1e-8).all()


@pytest.mark.parametrize("seed", range(3))
def test_rosenbrocks_valley_is_followed_to_its_end(seed):
    rows, losses = advance(lbfgs(seed=seed), rosenbrock, 300)
    assert losses.min() < 1e-8
    best = rows.flatten(0, 1)[losses.argmin()]
    torch.testing.assert_close(best, torch.ones(DIM, dtype=torch.float64), rtol=0.0, atol=1e-3)


def test_accepted_steps_decrease_the_loss_sufficiently():
    """Armijo's condition (Nocedal & Wright, 3.4) between consecutive points of one descent."""
    strategy, accepted, rejected = lbfgs(starts=1), 0, 0
    point, slope_of, before = None, None, None
    for _ in range(80):
        z = strategy.ask()
        loss, gradient = with_gradient(rosenbrock, z)
        strategy.tell(z, loss, gradient)
        moved = torch.equal(strategy.state_dict()["z"], z)
        if moved and point is not None:
            assert loss <= before + 1e-4 * (slope_of * (z - point)).sum()
        elif not moved:
            assert loss > before + 1e-4 * (slope_of * (z - point)).sum()
        accepted, rejected = accepted + moved, rejected + (not moved)
        if moved:
            point, slope_of, before = z, gradient, loss
    assert accepted > 40
    assert rejected > 3


def test_starts_together_are_what_each_is_alone():
    together = lbfgs()
    state = together.state_dict()
    rows = advance(together, rosenbrock, 25)[0]
    for k in range(4):
        alone = lbfgs(starts=1)
        own = {name: tensor[k : k + 1].clone() for name, tensor in state.items() if name != "random"}
        alone.load_state_dict(own | {"random": state["random"]})
        torch.testing.assert_close(advance(alone, rosenbrock, 25)[0], rows[:, k : k + 1])


@given(st.integers(-40, 40))
@settings(max_examples=10)
def test_the_losss_scale_does_not_matter(exponent):
    scaled = advance(lbfgs(), lambda z: rosenbrock(z) * 2.0**exponent, 20)[0]
    assert torch.equal(scaled, advance(lbfgs(), rosenbrock, 20)[0])


def test_a_longer_budget_begins_as_a_shorter_one():
    short, long = LBFGS(DIM, budget=40, seed=0), LBFGS(DIM, budget=4000, seed=0)
    assert LBFGS.anytime
    assert torch.equal(advance(short, rosenbrock, 10)[0], advance(long, rosenbrock, 10)[0])


def test_the_first_step_is_steepest_descent_of_a_tenth_of_the_shell():
    strategy = lbfgs()
    first, second = advance(strategy, rosenbrock, 2)[0]
    move, gradient = second - first, with_gradient(rosenbrock, first)[1]
    torch.testing.assert_close(move.norm(dim=1), torch.full((4,), 0.1 * DIM**0.5, dtype=torch.float64))
    torch.testing.assert_close(torch.cosine_similarity(move, -gradient), torch.ones(4, dtype=torch.float64))


def test_no_step_is_longer_than_half_the_shell():
    """softplus flattens out: Newton's step on its tail is far longer than that."""
    strategy = lbfgs(starts=1)
    lengths = []
    for _ in range(20):
        before = strategy.state_dict()["z"]
        z = advance(strategy, lambda z: torch.nn.functional.softplus(10 * z).sum(1), 1)[0][0]
        lengths.append((z - before).norm().item())
    assert max(lengths) == pytest.approx(0.5 * DIM**0.5)


def test_pairs_of_negative_curvature_are_not_kept():
    strategy = lbfgs()
    _, losses = advance(strategy, lambda z: -z.square().sum(1), 10)
    assert not strategy.state_dict()["changes"].any()
    assert (losses.diff(dim=0) < 0).all()


def test_a_descent_that_has_ended_begins_anew_from_the_next_draw():
    strategy = lbfgs(starts=1)
    random = stream(0, "l-bfgs")
    draws = [torch.randn(1, DIM, generator=random, dtype=torch.float64) for _ in range(2)]
    rows, losses = advance(strategy, lambda z: rotated_ellipsoid(DIM, 10.0)(z) + 1, 60)
    assert torch.equal(rows[0], draws[0])
    again = [k for k, z in enumerate(rows) if torch.equal(z, draws[1])]
    assert len(again) == 1
    assert losses[: again[0]].min() < 1 + 1e-8


def test_a_start_without_a_gradient_begins_anew_at_once():
    rows, _ = advance(lbfgs(starts=1), lambda z: z.sum(1) * 0 + 1, 6)
    random = stream(0, "l-bfgs")
    assert torch.equal(
        rows[:, 0], torch.cat([torch.randn(1, DIM, generator=random, dtype=torch.float64) for _ in range(6)])
    )


def test_a_failed_line_search_tries_steepest_descent_then_a_fresh_draw():
    strategy = lbfgs(starts=1)
    advance(strategy, rosenbrock, 12)
    point, gradient = strategy.state_dict()["z"], strategy.state_dict()["gradient"]
    asked = []
    for _ in range(20):
        asked.append(strategy.ask())
        strategy.tell(asked[-1], torch.full((1,), 1e9), torch.ones_like(point))
    moves = torch.cat(asked) - point
    shrinking = moves.norm(dim=1)[:9].diff()
    assert (shrinking < 0).all()
    steepest = next(k for k in range(1, 20) if moves[k].norm() > moves[k - 1].norm())
    assert steepest <= 9
    torch.testing.assert_close(torch.cosine_similarity(moves[steepest], -gradient[0], dim=0).item(), 1.0)
    assert moves[steepest + 9].norm() > 1
    assert not strategy.state_dict()["changes"].any()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_point_that_is_not_finite_only_shortens_the_step(scale):
    strategy = lbfgs(starts=1)
    advance(strategy, lambda z: scale * rosenbrock(z), 5)
    point = strategy.state_dict()["z"]
    z = strategy.ask()
    strategy.tell(z, torch.full((1,), torch.nan), torch.full_like(z, torch.nan))
    share = (strategy.ask() - point) / (z - point)
    torch.testing.assert_close(share, share[0, 0].expand_as(share))
    assert 0.1 - 1e-9 <= share[0, 0] <= 0.5 + 1e-9


@pytest.mark.parametrize("options", [{"starts": 0}, {"memory": 0}, {"starts": -1}])
def test_l_bfgs_refuses_what_it_cannot_do(options):
    with pytest.raises(InputError, match="expected starts and memory of at least 1"):
        lbfgs(**options)


# BasinCMA


def refined_by_torch(sample, objective, steps, learning_rate):
    """Return where torch's own Adam comes to."""
    z = sample.clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=learning_rate)
    for _ in range(steps):
        adam.zero_grad()
        objective(z).sum().backward()
        adam.step()
    return z.detach()


def recombined(moves, losses):
    """Return the mean of the best half's moves, weighted by ln((λ + 1) / 2) - ln(rank)."""
    half = len(losses) // 2
    weights = [math.log((len(losses) + 1) / 2) - math.log(rank) for rank in range(1, half + 1)]
    best = sorted(range(len(losses)), key=lambda k: losses[k])[:half]
    return sum(w * moves[k] for w, k in zip(weights, best, strict=True)) / sum(weights)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("population", [8, 9])
def test_basin_cma_is_cma_es_told_the_losses_of_refined_points(steps, population):
    """The outer search by a loop written out, the inner one by torch.optim.Adam."""
    options = {"sigma0": 0.4, "population": population}
    strategy = basin(steps=steps, learning_rate=0.07, **options)
    outer, shift = CMAES(DIM, budget=400, seed=0, **options), torch.zeros(DIM, dtype=torch.float64)
    for _ in range(5):
        rows, _ = advance(strategy, rosenbrock, steps + 1)
        sample = outer.ask()
        refined = refined_by_torch(sample + shift, rosenbrock, steps, 0.07)
        torch.testing.assert_close(rows[0], sample + shift)
        torch.testing.assert_close(rows[-1], refined)
        outer.tell(sample, rosenbrock(refined))
        shift = shift + recombined(refined - sample - shift, rosenbrock(refined))


def test_without_inner_steps_basin_cma_is_cma_es():
    strategy, plain = basin(steps=0), CMAES(DIM, budget=400, seed=0)
    assert torch.equal(advance(strategy, rosenbrock, 12)[0], advance(plain, rosenbrock, 12)[0])


@pytest.mark.parametrize("done", range(5))
def test_a_state_in_the_middle_of_the_inner_steps_continues_bit_for_bit(done):
    strategy, resumed = basin(steps=3), basin(steps=3)
    advance(strategy, rosenbrock, 4 + done)
    state = strategy.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    resumed.load_state_dict(state)
    assert torch.equal(advance(resumed, rosenbrock, 9)[0], advance(strategy, rosenbrock, 9)[0])
    assert all(torch.equal(state[name], kept[name]) for name in kept)


@pytest.mark.parametrize("steps", [0, 2])
def test_tensors_of_a_state_share_no_memory(steps):
    """safetensors refuses tensors that do."""
    strategy = basin(steps=steps)
    for _ in range(4):
        places = [tensor.data_ptr() for tensor in strategy.state_dict().values()]
        assert len(set(places)) == len(places)
        advance(strategy, rosenbrock, 1)


def median_of_best(strategy_type, objective, evaluations, dim):
    """Return the median over five seeds of the lowest loss met."""
    found = []
    for seed in range(5):
        strategy = strategy_type(dim, budget=evaluations, seed=seed)
        found.append(advance(strategy, objective, evaluations // strategy.batch_size)[1].min().item())
    return statistics.median(found)


@pytest.mark.slow("long searches, compared")
def test_an_ill_conditioned_bowl_favors_the_gradient_in_the_order_of_its_use():
    """L-BFGS learns curvature, Adam scales coordinates, BasinCMA only refines samples, CMA-ES has none."""
    kinds = [LBFGS, Adam, BasinCMA, CMAES]
    found = [median_of_best(kind, rotated_ellipsoid(64), 1000, 64) for kind in kinds]
    assert found == sorted(found)
    assert found[2] < found[3] / 1.2


@pytest.mark.slow("long searches, compared")
def test_many_local_minima_favor_basin_cma_over_descents_from_few_starts():
    found = [median_of_best(kind, waves, 1000, 16) for kind in (BasinCMA, Adam, LBFGS)]
    assert found[0] < min(found[1:]) / 1.2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps": -1}, "steps of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate above 0"),
        ({"learning_rate": math.inf}, "learning_rate above 0"),
        ({"population": 2}, "population of at least 3"),
        ({"sigma0": 0.0}, "sigma0 above 0"),
    ],
)
def test_basin_cma_refuses_what_it_cannot_do(options, reason):
    with pytest.raises(InputError, match=reason):
        basin(**options)
