"""Gauss-Newton from residuals: exact on linear problems, one Jacobian for all images, no derivative."""

import pytest
import torch

import ggl
from ggl.attacks.inversion import Target
from ggl.base.errors import InputError
from ggl.datasets.picking import pick_private
from ggl.optimizers import load_strategy
from ggl.optimizers.least_squares.linearization import Linearization
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
    assert sizes[:3] == [16, D, 6]  # one set of differences for all images
    assert best < 1e-8


def test_normal_equations_are_those_of_autograd():
    z, maps, target = random(2, D), random(2, M, D, seed=3), random(M, seed=4)
    model = Linearization(z, torch.einsum("pmd,pd->pm", maps, z), maps)
    for unit in (False, True):

        def residual(flat, unit=unit):
            value = torch.einsum("pmd,pd->m", maps, flat.view(2, D))
            if unit:
                return value / value.norm() - target / target.norm()
            return (value - target) / target.norm()

        jacobian = torch.autograd.functional.jacobian(residual, z.flatten())
        square, slope = model.normal_equations(target, unit)
        torch.testing.assert_close(square, jacobian.T @ jacobian)
        torch.testing.assert_close(slope, jacobian.T @ residual(z.flatten()))


def test_differences_are_exact_on_linear_maps_and_secants_explain_what_they_saw():
    maps, z = random(2, M, D), random(2, D, seed=1)
    steps = torch.linalg.qr(random(2, D, D, seed=2))[0].permute(2, 0, 1)

    def values(points):
        return torch.einsum("pmd,npd->npm", maps, points)

    model = Linearization.by_differences(z, values(z[None])[0], 0.3 * steps, values(z + 0.3 * steps))
    torch.testing.assert_close(model.jacobian, maps)
    model.jacobian = torch.zeros_like(maps)
    points = z + random(3, 2, D, seed=5)
    model.update(points, values(points), 1e-12)
    predicted = model.values + torch.einsum("pmd,npd->npm", model.jacobian, points - z)
    torch.testing.assert_close(predicted, values(points), rtol=1e-6, atol=1e-6)


def test_a_search_that_hardly_gains_takes_shorter_differences():
    strategy = load_strategy("gauss-newton:probes=2", latent_dim=D, **OPTIONS)
    lengths = []
    for _ in range(12):
        z = strategy.ask()
        if len(z) == D and len(lengths) < 2:
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
        ("step=0", "expected starts, dampings and probes of at least 1, step and regularization above 0"),
        ("regularization=-1", "step and regularization above 0"),
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


def attacked(data, prior, strategy, budget, batch=1, distance="cosine", defense="none"):
    """Return the losses of attacks on three clients of an untrained LeNet."""
    oracle = ggl.GradientOracle(ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32))
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
    return ggl.attack_many(oracle, targets, defense=defense, **options)


def mean_loss(results):
    return sum(result.loss for result in results) / len(results)


def test_it_is_ahead_of_cma_es_at_equal_evaluations(data, prior):
    found, scalar = (attacked(data, prior, s, 300) for s in ("gauss-newton", "cma-es"))
    assert mean_loss(found) < 0.7 * mean_loss(scalar)
    assert all(result.backward_passes == 0 for result in found)


def test_a_batch_is_ahead_too_by_either_distance(data, prior):
    for distance in ("cosine", "l2"):
        found, scalar = (
            attacked(data, prior, s, 300, batch=2, distance=distance) for s in ("gauss-newton", "cma-es")
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
