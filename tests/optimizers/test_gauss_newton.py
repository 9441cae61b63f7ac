"""Gauss-Newton from residuals: exact on linear problems, one Jacobian for all images, no derivative."""

import pytest
import torch

import ggl
from ggl.attacks.search import Search
from ggl.attacks.target import Target
from ggl.base.errors import InputError
from ggl.datasets.picking import pick_private
from ggl.optimizers import load_strategy
from ggl.optimizers.least_squares.linearization import Linearization
from ggl.optimizers.least_squares.metric import Metric
from ggl.optimizers.least_squares.recombination import merits, recombined
from ggl.optimizers.least_squares.record import Record, rows_of
from ggl.optimizers.least_squares.roughness import measure_roughness
from ggl.optimizers.least_squares.steps import damped_steps
from ggl.optimizers.residuals import Residuals

D, M = 6, 40
OPTIONS = {"budget": 500, "seed": 0}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def searched(strategy, values, target, unit, evaluations):
    """Search by what latents come to, (n, parts, m); return the least loss, and every generation's size."""
    best, sizes = float("inf"), []
    while sum(sizes) < evaluations:
        z = strategy.ask()
        found = values(z)
        whole = found.sum(1)
        if unit:
            whole, goal = whole / whole.norm(dim=1, keepdim=True), target / target.norm()
        else:
            goal = target
        loss = (whole - goal).square().sum(1) * (0.5 if unit else 1)
        strategy.tell(z, loss, None, Residuals(found, target, unit))
        best = min(best, float(loss.min()))
        sizes.append(len(z))
    return best, sizes


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_linear_problem_is_solved_soon_after_its_jacobian(parts, unit):
    maps, wanted = random(parts, M, D), random(parts, D, seed=1)

    def values(z):
        return torch.einsum("pmd,npd->npm", maps, z.unflatten(1, (parts, D)))

    target = values(wanted.view(1, -1))[0].sum(0)
    strategy = load_strategy("gauss-newton:shell=0", latent_dim=parts * D, **OPTIONS)
    best, sizes = searched(strategy, values, target, unit, 150)
    assert sizes[:3] == [16, D + 4, 6]  # one set of differences for all images
    assert best < 1e-6 * (1 if unit else float(target.square().sum()))


def a_record(points, maps, target, groups=(M,), losses=None):
    """Return points (n, parts, d) and what linear maps (parts, m, d) make of them."""
    record = Record(target, groups, *points.shape[1:], 100)
    values = torch.einsum("pmd,npd->npm", maps, points)
    record.add(points, values, torch.zeros(len(points)) if losses is None else losses)
    return record


def test_a_step_without_an_inverse_is_none():
    square, slope = torch.diag(torch.tensor([4.0, 1.0]).double()), torch.ones(2, dtype=torch.float64)
    (step,) = damped_steps(square, slope, torch.tensor([0.5], dtype=torch.float64))
    torch.testing.assert_close(step, -1 / torch.tensor([6.0, 3.0], dtype=torch.float64))
    for bad in (float("inf"), float("nan")):
        assert not damped_steps(square * bad, slope, torch.ones(2, dtype=torch.float64)).any()


def test_a_gradient_that_is_nearly_zero_beside_its_noise_ends_no_search():
    """Of victims that have fitted their images: every value is next to nothing."""
    strategy, target = load_strategy("gauss-newton", latent_dim=D, **OPTIONS), random(M, seed=1)
    maps, noise = 1e-9 * random(M, D), 1e-12 * random(M, seed=2)

    def values(z):
        return (torch.relu(z @ maps.T) * (z[:, :1] > 0) + noise)[:, None]

    best, _ = searched(strategy, values, target, True, 300)
    assert best < 1


@pytest.mark.parametrize("unit", [False, True])
def test_equations_are_those_of_autograd_at_a_point_of_several_candidates(unit):
    maps, target = random(2, M, D), random(M, seed=4)
    center = torch.tensor([1, 3])
    record = a_record(random(20, 2, D, seed=5), maps, target)
    z = record.at(center)

    def residual(flat):
        value = torch.einsum("pmd,pd->m", maps, flat.view(2, D))
        if unit:
            return value / value.norm() - target / target.norm()
        return (value - target) / target.norm()

    jacobian = torch.autograd.functional.jacobian(residual, z.flatten())
    square, slope, merit = Linearization(record, center).equations(record.products[0], unit)
    close = {"rtol": 1e-2, "atol": 1e-3 * float(square.abs().max())}  # the fit's ridge, float32 products
    torch.testing.assert_close(square, jacobian.T @ jacobian, **close)
    torch.testing.assert_close(slope, jacobian.T @ residual(z.flatten()), **close)
    torch.testing.assert_close(merit, residual(z.flatten()).square().sum() / 2, rtol=1e-4, atol=1e-6)


def test_products_are_those_of_values_whatever_was_forgotten():
    maps, target = random(3, M, D), random(M, seed=4)
    points = random(30, 3, D, seed=5)
    record = a_record(points[:20], maps, target, groups=(10, 25, M - 35))
    center = record.keep_nearest(torch.tensor([4, 4, 7]), 8)
    assert torch.equal(record.at(center), points[[4, 4, 7], range(3)])
    record.add(points[20:], torch.einsum("pmd,npd->npm", maps, points[20:]), torch.ones(10))
    values = torch.einsum("pmd,npd->npm", maps, record.z)
    rows = torch.cat([target[None], (values - target / 3).flatten(0, 1)]) / target.norm()
    for found, part in zip(record.products, rows.split(record.sizes, 1), strict=True):
        torch.testing.assert_close(found, part @ part.T, rtol=1e-4, atol=1e-4)
    record.join()
    torch.testing.assert_close(record.products[0], rows @ rows.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", [False, True])
def test_recombination_is_brute_force_image_by_image(unit):
    """Of 5 points of 2 parts: no point that differs in one part alone is better; and it begins no worse."""
    target = random(M, seed=4)
    record = a_record(random(5, 2, D, seed=5), random(2, M, D), target)
    values = torch.einsum("pmd,npd->npm", random(2, M, D), record.z)
    penalties = random(5, 2, seed=6).abs() / 10

    def merit(choice):
        value = values[choice, range(2)].sum(0)
        loss = 1 - torch.cosine_similarity(value, target, 0) if unit else (value - target).square().sum()
        scale = 1 if unit else 2 * target.square().sum()
        return float(loss / scale + penalties[choice, range(2)].sum())

    start = torch.tensor([0, 0])
    found = recombined(record.products[0], penalties, start, unit).tolist()
    every = {(a, b): merit([a, b]) for a in range(5) for b in range(5)}
    neighbors = [every[a, found[1]] for a in range(5)] + [every[found[0], b] for b in range(5)]
    assert every[tuple(found)] == pytest.approx(min(neighbors), abs=1e-6)
    assert every[tuple(found)] <= every[0, 0]
    expected = torch.tensor([every[a, a] for a in range(5)], dtype=torch.float64)
    torch.testing.assert_close(merits(record.products[0], penalties, unit), expected, rtol=1e-4, atol=1e-5)


def test_a_fit_to_a_linear_map_foretells_new_points():
    maps, target = random(2, M, D), random(M, seed=1)
    record = a_record(random(30, 2, D, seed=2), maps, target)
    model = Linearization(record, torch.tensor([0, 0]))
    points = random(4, 2, D, seed=3)
    record.add(points, torch.einsum("pmd,npd->npm", maps, points), torch.zeros(4))
    error, change = (
        torch.einsum("ki,ij,kj->k", x, record.products[0], x)
        for x in (model.errors(record, 30, 4), model.changes(record, 30, 4))
    )
    assert (error < 1e-4 * change).all()
    difference = (
        torch.einsum("pmd,npd->nm", maps, points) - maps[0] @ record.z[0, 0] - maps[1] @ record.z[0, 1]
    )
    torch.testing.assert_close(change, (difference / target.norm()).square().sum(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("bend", "low", "high"), [(torch.tanh, 0, 0.3), (lambda x: (300 * x).sin(), 0.7, 1.8)]
)
def test_what_is_rough_is_told_from_what_is_smooth(bend, low, high):
    d, m = 8, 200
    maps, steps = 0.3 * random(m, d), 0.5 * torch.eye(d, dtype=torch.float64)
    points = torch.cat([torch.zeros(1, d), steps, -steps[:4]])
    record = Record(random(m, seed=1), (m,), 1, d, 100)
    record.add(points[:, None], bend(points @ maps.T + random(m, seed=2))[:, None], torch.zeros(len(points)))
    found = measure_roughness(record, torch.zeros(1, dtype=torch.int64), 1, 4)
    assert low <= found.worst <= high


def test_what_the_model_foretells_weighs_more_and_known_errors_are_taken_out():
    """Two groups, linear and random: the second's weight falls, and a known direction no longer counts."""
    points, maps = random(45, 1, D, seed=1), random(M, D, seed=2)
    values = torch.cat([points @ maps.T, random(45, 1, M, seed=3)], dim=2)
    record = Record(values[0, 0], (M, M), 1, D, 100)
    record.add(points[:40], values[:40], torch.zeros(40))
    center = torch.tensor([0])
    model = Linearization(record, center)
    errors = model.misfits(record, 10)
    metric = Metric(torch.zeros(2).double(), torch.ones(2).double())
    record.add(points[40:], values[40:], torch.zeros(5))
    metric.learn(record, model.errors(record, 40, 5), model.changes(record, 40, 5), errors)
    metric.weigh(record, rows_of(center))
    assert metric.weights[0] > 50 * metric.weights[1]
    own, plain = Metric(*torch.ones(2, 2).double()).products(record, errors), record.products.sum(0)
    direction = torch.nn.functional.pad(errors[0], (0, 5))
    assert direction @ own @ direction < 0.05 * (direction @ plain @ direction)
    assert torch.linalg.eigvalsh(own)[0] > -1e-4 * torch.linalg.eigvalsh(own)[-1]


def test_a_search_that_hardly_gains_takes_shorter_differences():
    strategy = load_strategy("gauss-newton:probes=2", latent_dim=D, **OPTIONS)
    lengths = []
    for _ in range(12):
        z = strategy.ask()
        if len(z) in (D, D + 4) and len(lengths) < 2:
            lengths.append(float((z[0] - z[1]).norm()))
        strategy.tell(z, torch.ones(len(z)), None, Residuals(z[:, None], torch.ones(D), unit=False))
    assert lengths[1] == pytest.approx(lengths[0] / 5, rel=0.05)


@pytest.mark.parametrize("scale", [0.0, 1e150, torch.nan, torch.inf])
def test_strange_residuals_are_survived(scale):
    strategy = load_strategy("gauss-newton", latent_dim=D, **OPTIONS)
    for _ in range(4):
        z = strategy.ask()
        assert z.isfinite().all()
        values = (z * scale)[:, None]
        strategy.tell(z, z.square().sum(1), None, Residuals(values, torch.full((D,), 1.0), unit=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("dampings=0", "expected starts, dampings and probes of at least 1"),
        ("step=0", "expected starts, dampings and probes of at least 1, step above 0"),
        ("shell=-1", "shell not below"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=f"^gauss-newton: .*{message}"):
        load_strategy(f"gauss-newton:{options}", latent_dim=D, **OPTIONS)


def test_more_coordinates_than_can_be_solved_for_are_one_line():
    with pytest.raises(InputError, match=r"^gauss-newton: expected at most 4,096 .*; take block-cma-es"):
        load_strategy("gauss-newton", latent_dim=5000, **OPTIONS)


class Table(torch.nn.Module):
    """The embedded prior without a derivative: its pictures come out of numpy."""

    def __init__(self, prior):
        super().__init__()
        self.prior, self.latent_dim, self.image_shape = prior, prior.latent_dim, prior.image_shape
        self.num_classes = prior.num_classes

    def decode(self, z, labels=None):
        with torch.no_grad():
            return torch.from_numpy(self.prior.decode(z, labels).numpy().copy())


def attacked(
    data, prior, strategy, budget, batch=1, distance="cosine", defense="none", victim="lenet", checkpoint=None
):
    """Return the results of attacks on three clients of an untrained victim."""
    oracle = ggl.GradientOracle(ggl.load_victim(victim, in_channels=1, num_classes=10, image_size=32))
    rows = pick_private(data.labels, 3 * batch, 101).view(3, batch)
    known = ggl.load_defense(defense)
    targets = [
        Target(
            f"{k}",
            known.protect(oracle.observe(data.images[r], data.labels[r]), torch.Generator()),
            data.labels[r],
        )
        for k, r in enumerate(rows)
    ]
    options = {"prior": prior, "strategy": strategy, "budget": budget, "distance": distance}
    return ggl.attack_many(oracle, targets, defense=defense, checkpoint=checkpoint, **options)


def mean_loss(results):
    return sum(result.loss for result in results) / len(results)


def test_it_is_ahead_of_cma_es_at_equal_evaluations(data, prior):
    found, scalar = (attacked(data, prior, s, 300) for s in ("gauss-newton", "cma-es"))
    assert mean_loss(found) < 0.7 * mean_loss(scalar)
    assert all(result.backward_passes == 0 for result in found)


def test_it_is_ahead_where_gradients_jump_and_ends_with_its_own_choice(data, prior):
    """Behind ReLUs the least loss is partly luck: the search ends with what fits best in its metric."""
    rows = pick_private(data.labels, 3, 101)

    def error(results):
        return (torch.cat([r.images for r in results]) - data.images[rows]).square().mean()

    found, scalar = (attacked(data, prior, s, 300, victim="mlp") for s in ("gauss-newton", "cma-es"))
    assert error(found) < 0.9 * error(scalar)
    assert any(result.history[-1][1] > min(loss for _, loss in result.history) for result in found)


@pytest.mark.parametrize("victim", ["lenet", "mlp"])
def test_an_attack_that_was_killed_resumes_bit_for_bit(data, prior, victim, tmp_path, monkeypatch):
    """On a smooth and on a rough victim, whose search has a choice of its own."""
    path = tmp_path / "attack.safetensors"
    whole = attacked(data, prior, "gauss-newton", 130, victim=victim)
    monkeypatch.setattr("ggl.attacks.search.CHECKPOINT_SECONDS", 0.0)
    ended = Search._generation
    calls = iter(range(10**6))

    def killed(self, active):
        if next(calls) == 5:
            raise KeyboardInterrupt
        ended(self, active)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_generation", killed)
        with pytest.raises(KeyboardInterrupt):
            attacked(data, prior, "gauss-newton", 130, victim=victim, checkpoint=path)
    resumed = attacked(data, prior, "gauss-newton", 130, victim=victim, checkpoint=path)
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a.latents, b.latents)
        assert a.history == b.history


def test_a_batch_is_ahead_too_by_either_distance(data, prior):
    for distance in ("cosine", "l2"):
        found, scalar = (
            attacked(data, prior, s, 400, batch=2, distance=distance) for s in ("gauss-newton", "cma-es")
        )
        assert mean_loss(found) < mean_loss(scalar)


def test_a_prior_without_a_derivative_is_attacked_as_its_differentiable_twin(data, prior):
    table = ggl.generators.loading.adopt(Table(prior), "table")
    plain, found = (attacked(data, p, "gauss-newton", 120, defense="prune:0.5") for p in (prior, table))
    for a, b in zip(plain, found, strict=True):
        assert torch.equal(a.latents, b.latents)


def test_a_budget_below_the_first_jacobian_ends_with_the_best_start(data, prior):
    for result in attacked(data, prior, "gauss-newton", 40):
        assert result.evaluations == 16


def test_a_distance_that_is_no_sum_of_squares_is_one_line(data, prior):
    with pytest.raises(InputError, match=r"^expected a distance that is a sum of squares"):
        attacked(data, prior, "gauss-newton", 100, distance="orthogonal")
