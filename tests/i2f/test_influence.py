import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from scipy.stats import t as student_t
from torch import nn
from torch.func import functional_call, grad, jacrev
from torch.nn.functional import cross_entropy

from ggl.base.errors import GradientError, InputError
from ggl.base.random import stream
from ggl.defenses import Defense, load_defense
from ggl.gradients import GradientOracle
from ggl.i2f.influence import influence, influences
from ggl.i2f.jacobian import Jacobian, jacobian_product, transposed_product
from ggl.i2f.krylov import largest_eigenvalues, solve_shifted, steps_needed
from ggl.i2f.perturbations import Draws, perturbations
from ggl.i2f.problem import DAMPING, ITERATIVE_DAMPING
from ggl.measures.rank_correlation import rank_correlation
from ggl.victims import load_victim, victims

SHAPE = (1, 4, 4)


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Sigmoid(), nn.Linear(6, 3)).double().eval()


def conv(seed=0):
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    return nn.Sequential(*layers).double().eval()


NETS = {"mlp": mlp, "conv": conv}


def batch(n=3, shape=SHAPE, seed=0):
    random = torch.Generator().manual_seed(seed)
    images = torch.rand((n, *shape), generator=random, dtype=torch.float64)
    return images, torch.arange(n) % 3


def dense(model, image, label):
    """Return J (d_x, d_θ) of one image by reverse mode over the flat gradient."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def gradient(x):
        def loss(p):
            return cross_entropy(functional_call(model, p, (x[None],)), label[None])

        return torch.cat([g.flatten() for g in grad(loss)(parameters).values()])

    return jacrev(gradient)(image).flatten(1).T


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


def directions(model, n, seed=1):
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn((n, *p.shape), generator=random, dtype=p.dtype)
        for name, p in model.named_parameters()
    }


@pytest.fixture(params=NETS)
def model(request):
    return NETS[request.param]()


def test_products_are_those_of_the_dense_jacobian(model):
    images, labels = batch()
    delta, b = directions(model, 3), torch.rand_like(images)
    product, back = (
        jacobian_product(model, images, labels, delta),
        transposed_product(model, images, labels, b),
    )
    normal = Jacobian(model, images, labels).normal(b)
    for i in range(3):
        jacobian = dense(model, images[i], labels[i])
        mine = {name: d[i] for name, d in delta.items()}
        torch.testing.assert_close(product[i].flatten(), jacobian @ flat(mine))
        torch.testing.assert_close(flat({k: d[i] for k, d in back.items()}), jacobian.T @ b[i].flatten())
        torch.testing.assert_close(normal[i].flatten(), jacobian @ jacobian.T @ b[i].flatten())


@pytest.fixture
def large(monkeypatch):
    """Take any image for too large to have all eigenpairs computed."""
    monkeypatch.setattr("ggl.i2f.problem.fit_in_memory", lambda problems, dimension: False)


@pytest.mark.parametrize(
    ("defense", "damping"), [("noise:0.1", 1e-1), ("prune:0.6", 1e-3), ("clip:0.1", 1e-5)]
)
@pytest.mark.parametrize("solver", ["eigenpairs", "conjugate gradients"])
def test_the_influence_is_that_of_the_dense_jacobian(model, defense, damping, solver, request):
    if solver == "conjugate gradients":
        request.getfixturevalue("large")
    images, labels = batch()
    found = influence(model, images, labels, defense, draws=2, damping=damping, seed=5)
    done = {
        (p.image, p.draw): p
        for p in perturbations(model, images, labels, load_defense(defense), Draws(2, seed=5))
    }
    for i, draw in np.ndindex(3, 2):
        jacobian = dense(model, images[i], labels[i])
        curvature, moved = jacobian @ jacobian.T, jacobian @ flat(done[i, draw].delta)
        largest = torch.linalg.eigvalsh(curvature)[-1]
        shifted = curvature + damping * largest * torch.eye(16)
        exact = torch.linalg.solve(shifted, moved).norm()
        assert found.lambda_max[i] == pytest.approx(largest.item(), rel=1e-6)
        assert found.product_norm[i, draw] == pytest.approx(moved.norm().item(), rel=1e-6)
        assert found.exact[i, draw] == pytest.approx(exact.item(), rel=1e-6)
        bound = moved.norm() / (largest * (1 + damping))
        assert found.bound[i, draw] == pytest.approx(bound.item(), rel=1e-6)
        assert found.delta_norm[i, draw] == pytest.approx(flat(done[i, draw].delta).norm().item())
        assert found.gradient_norm[i] == pytest.approx(flat(done[i, draw].gradient).norm().item())
    assert found.converged.all()
    assert np.allclose(found.exact_rmse, found.exact / 4)
    assert np.allclose(found.bound_rmse, found.bound / 4)


@settings(max_examples=8, derandomize=True)
@given(
    net=st.sampled_from(sorted(NETS)),
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-8, 1e8),
    damping=st.floats(1e-4, 10.0),
)
def test_the_bound_is_never_above_the_exact_influence(net, seed, scale, damping):
    found = influence(NETS[net](seed), *batch(1, seed=seed), f"noise:{scale!r}", damping=damping, seed=seed)
    assert (found.bound > 0).all()
    assert (found.bound <= found.exact * (1 + 1e-9)).all()


def test_the_default_damping_is_what_the_solver_can_bear(request):
    images, labels = batch()
    assert influence(conv(), images, labels, "noise:0.1").damping == DAMPING
    assert influence(conv(), images, labels, "noise:0.1", exact=False).damping == DAMPING
    request.getfixturevalue("large")
    assert influence(conv(), images, labels, "noise:0.1").damping == ITERATIVE_DAMPING


def test_single_precision_victims_are_solved_for_in_double():
    images, labels = batch()
    single = influence(conv().float(), images.float(), labels, "noise:1e-3")
    double = influence(conv(), images, labels, "noise:1e-3")
    assert single.converged.all()
    assert single.exact == pytest.approx(double.exact, rel=1e-3)


def test_the_bound_is_reached_along_the_leading_direction():
    class Along(Defense):
        """Adds Jᵀ v, v being the leading eigenvector of J Jᵀ."""

        name = "along"

        def share(self, client, generator):
            jacobian = dense(client.model, client.images[0], client.labels[0])
            leading = torch.linalg.eigh(jacobian @ jacobian.T)[1][:, -1]
            parts = (jacobian.T @ leading).split([g.numel() for g in client.gradient().values()])
            pairs = zip(client.gradient().items(), parts, strict=True)
            return {name: g + part.view_as(g) for (name, g), part in pairs}

    found = influence(conv(), *batch(), Along(), damping=1e-2)
    assert found.bound == pytest.approx(found.exact, rel=1e-6)
    assert (found.bound <= found.exact * (1 + 1e-9)).all()


def test_no_perturbation_moves_nothing(model):
    found = influence(model, *batch(), "none")
    assert not found.exact.any()
    assert not found.bound.any()
    assert not found.delta_norm.any()
    assert found.converged.all()


def test_the_influence_is_linear_in_the_noise(model):
    # The noise's stream goes by the defense's name, so that names of one seed would differ.
    class Noise(Defense):
        name = "my noise"

        def __init__(self, std):
            self.std = std

        def protect(self, gradients, generator):
            return {
                k: g + self.std * torch.randn(g.shape, generator=generator, dtype=g.dtype)
                for k, g in gradients.items()
            }

    one, ten = (influence(model, *batch(1), Noise(std), damping=0.1) for std in (0.1, 1.0))
    assert ten.exact == pytest.approx(10 * one.exact, rel=1e-6)
    assert ten.bound == pytest.approx(10 * one.bound, rel=1e-6)


def test_pruning_takes_away_what_it_prunes(model):
    images, labels = batch()
    oracle = GradientOracle(model)
    for one in perturbations(model, images, labels, load_defense("prune:0.5")):
        own = oracle.observe(images[one.image : one.image + 1], labels[one.image : one.image + 1])
        for name, delta in one.delta.items():
            gone = one.shared[name] == 0
            assert gone.any() or own[name].numel() < 2
            assert torch.equal(delta[gone], -own[name][gone])
            assert not delta[~gone].any()


def test_draw_zero_is_what_an_audit_meets():
    model, (images, labels) = mlp(), batch()
    defense = load_defense("noise:0.3")
    done = list(perturbations(model, images, labels, defense, Draws(2, seed=7)))
    assert [(p.image, p.draw) for p in done] == [(i, k) for i in range(3) for k in range(2)]
    for one in done:
        again = defense.protect(one.gradient, stream(7, "client", "noise:0.3", "private", one.image))
        same = all(torch.equal(one.shared[name], again[name]) for name in again)
        assert same == (one.draw == 0)


def test_images_side_by_side_are_what_they_are_alone(model):
    images, labels = batch()
    delta = directions(model, 3)
    whole = influence(model, images, labels, "prune:0.5", damping=0.1)
    product = jacobian_product(model, images, labels, delta)
    for i in range(3):
        rows = slice(i, i + 1)
        alone = influence(model, images[rows], labels[rows], "prune:0.5", damping=0.1)
        assert alone.exact[0] == pytest.approx(whole.exact[i], rel=1e-7)
        assert alone.lambda_max[0] == pytest.approx(whole.lambda_max[i], rel=1e-7)
        part = {name: d[rows] for name, d in delta.items()}
        torch.testing.assert_close(jacobian_product(model, images[rows], labels[rows], part)[0], product[i])


def test_chunks_of_one_image_change_nothing(model):
    images, labels = batch()
    b = torch.rand_like(images)
    jacobian = Jacobian(model, images, labels)
    wanted = jacobian.normal(b)
    jacobian.chunks.size = 1
    torch.testing.assert_close(jacobian.normal(b), wanted)
    torch.testing.assert_close(
        jacobian.select(torch.tensor([2, 0, 0])).normal(b[[2, 0, 0]]), wanted[[2, 0, 0]]
    )


def test_several_defenses_are_what_each_is_alone():
    model, (images, labels) = mlp(), batch()
    both = influences(model, images, labels, ["noise:0.1", "prune:0.5"], damping=0.1)
    assert [one.defense for one in both] == ["noise:0.1", "prune:0.5"]
    for one in both:
        alone = influence(model, images, labels, one.defense, damping=0.1)
        assert np.array_equal(one.exact, alone.exact)
    assert influence(model, images, labels, "noise:0.1", exact=False).exact is None


@pytest.mark.parametrize("name", ["convnet", "lenet", "mlp", "vit", "resnet18-groupnorm"])
def test_both_products_of_every_victim_are_of_one_jacobian(name):
    assert name in victims.names()
    victim = load_victim(name, in_channels=1, num_classes=3, image_size=8).double()
    images, labels = batch(1, (1, 8, 8))
    b, delta = torch.rand_like(images), directions(victim, 1)
    forward = (jacobian_product(victim, images, labels, delta) * b).sum()
    back = transposed_product(victim, images, labels, b)
    torch.testing.assert_close(forward, sum((back[k] * delta[k]).sum() for k in back))


def test_activations_in_place_and_frozen_parameters():
    def made(in_place):
        torch.manual_seed(3)
        parts = (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(in_place), nn.Flatten(), nn.Linear(8, 3))
        net = nn.Sequential(*parts).double().eval()
        net[0].bias.requires_grad_(False)
        return net

    images, labels = batch()
    with_it, without = (influence(made(k), images, labels, "prune:0.5", damping=0.1) for k in (True, False))
    assert np.array_equal(with_it.exact, without.exact)
    assert "0.bias" not in transposed_product(made(True), images, labels, images)
    assert made(True)[2].inplace


def test_float32_is_near_float64():
    model, (images, labels) = conv(), batch()
    wanted = influence(model, images, labels, "prune:0.5")
    found = influence(conv().float(), images.float(), labels, "prune:0.5")
    assert found.converged.all()
    assert found.exact == pytest.approx(wanted.exact, rel=1e-3)


def test_lanczos_of_known_matrices():
    random = torch.Generator().manual_seed(0)
    roots = torch.randn((3, 30, 30), generator=random, dtype=torch.float64)
    roots[1, :, 1:] = 0  # rank 1: the Krylov space ends after two steps
    roots[2] = torch.eye(30)
    matrices = roots @ roots.mT
    start = torch.randn((3, 30), generator=random, dtype=torch.float64)

    def operator(vectors, rows):
        return torch.einsum("mij,mj->mi", matrices[rows], vectors)

    found = largest_eigenvalues(operator, start, tolerance=1e-9)
    assert found.converged.all()
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(matrices)[:, -1])
    early = largest_eigenvalues(operator, start, tolerance=1e-9, max_steps=2)
    assert early.converged.tolist() == [False, True, True]
    assert (early.values <= found.values * (1 + 1e-12)).all()


def test_a_solve_that_ends_early_says_so_and_errs_towards_zero():
    values = torch.logspace(-4, 0, 40, dtype=torch.float64)
    b = torch.ones((2, 40), dtype=torch.float64) * torch.tensor([[1.0], [0.0]])

    def operator(vectors, rows):
        return values * vectors

    def solve(steps):
        return solve_shifted(operator, b, torch.full((2,), 1e-4), tolerance=1e-8, max_steps=steps)

    full, early = solve(steps_needed(1e4, 1e-8)), solve(5)
    assert full.converged.tolist() == [True, True]
    assert early.converged.tolist() == [False, True]
    torch.testing.assert_close(full.x[0], 1 / (values + 1e-4), rtol=1e-3, atol=1e-3)
    assert early.x[0].norm() < full.x[0].norm()
    assert early.residuals[0] > 1e-3


def refused(error, message, call):
    with pytest.raises(error) as found:
        call()
    assert str(found.value) == message


def test_victims_that_mix_or_sample_are_refused():
    images, labels = batch()
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3)).double()
    refused(
        InputError,
        "expected batch normalization by running statistics, found '0' that mixes the images of a batch: "
        "call eval() on the victim, or use one with GroupNorm",
        lambda: influence(net, images, labels, "none"),
    )
    drop = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)).double()
    refused(
        InputError,
        "the victim's dropout '1' is active, so that its gradient is random; "
        "call eval() on it or set its p to 0",
        lambda: influence(drop, images, labels, "none"),
    )
    for defense in ("precode:4", "ppp:noise=0.1,size=4"):
        with pytest.raises(InputError, match="draws noise on every pass") as found:
            influence(mlp(), images, labels, defense)
        assert "\n" not in str(found.value)
        wrapped = load_defense(defense).wrap(mlp(), 0)
        with pytest.raises(InputError, match="the influence function has no Jacobian there; leave it out"):
            Jacobian(wrapped, images, labels)


def test_what_does_not_fit_is_refused():
    model, (images, labels) = mlp(), batch()
    refused(
        InputError,
        "expected a damping above 0, epsilon over the largest eigenvalue; found 0",
        lambda: influence(model, images, labels, "none", damping=0.0),
    )
    refused(
        InputError,
        "expected at least 1 draw of the defense's randomness, found 0",
        lambda: influence(model, images, labels, "none", draws=0),
    )
    refused(
        InputError,
        "expected labels from 0 to 2, which the victim has; found 3",
        lambda: influence(model, images, labels + 1, "none"),
    )
    delta = directions(model, 3)
    del delta["1.bias"]
    refused(
        InputError,
        "expected a direction for each of the victim's parameters and no other, "
        "found a difference at '1.bias'",
        lambda: jacobian_product(model, images, labels, delta),
    )
    refused(
        InputError,
        "expected directions of the shape (3, 6, 16) for '1.weight', one an image, found (2, 6, 16)",
        lambda: jacobian_product(model, images, labels, directions(model, 2)),
    )
    refused(
        InputError,
        "expected directions of the images' shape (3, 1, 4, 4), found (2, 1, 4, 4)",
        lambda: Jacobian(model, images, labels).transposed(images[:2]),
    )


def test_a_gradient_that_does_not_depend_on_the_image_is_refused():
    model = mlp()
    with torch.no_grad():
        model[1].weight.zero_()
        model[3].weight.zero_()
    refused(
        GradientError,
        "the gradient of image 0 does not depend on its pixels: there is nothing to invert "
        "(a converged victim, dead units?)",
        lambda: influence(model, *batch(), "none"),
    )


def points(n=12, levels=3, noise=0.5):
    random = np.random.default_rng(0)
    images = np.repeat(np.arange(n), levels)
    predicted = np.exp(random.normal(size=n)[images] + np.tile(np.arange(levels), n))
    return predicted, predicted * np.exp(noise * random.normal(size=n * levels)), images


def test_the_rank_correlation_is_scipys():
    predicted, measured, images = points()
    measured[:6] = measured[0]  # ties
    found = rank_correlation(predicted, measured, images)
    assert found.mean == pytest.approx(spearmanr(predicted, measured).statistic)
    assert found.n == 12
    assert found.low < found.mean < found.high
    assert rank_correlation(predicted**3, np.log(measured), images) == found


def test_its_interval_leaves_images_out_one_by_one_with_all_their_points():
    predicted, measured, images = points()
    z = np.arctanh(spearmanr(predicted, measured).statistic)
    others = []
    for k in range(12):
        kept = images != k
        others.append(np.arctanh(spearmanr(predicted[kept], measured[kept]).statistic))
    pseudo = 12 * z - 11 * np.array(others)
    reach = student_t.ppf(0.975, 11) * pseudo.std(ddof=1) / math.sqrt(12)
    found = rank_correlation(predicted, measured, images)
    assert (found.low, found.high) == pytest.approx((math.tanh(z - reach), math.tanh(z + reach)))


def test_a_perfect_order_has_an_interval_about_it():
    found = rank_correlation(np.arange(8.0), np.arange(8.0), np.arange(8))
    assert found.mean == found.high == 1
    assert 0.9 < found.low <= 1


def test_rank_correlations_without_an_interval():
    one = rank_correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [4, 4, 4])
    assert one.mean == pytest.approx(0.5)
    assert math.isnan(one.low)
    assert one.n == 1
    assert math.isnan(rank_correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [4, 4, 5]).low)
    assert math.isnan(rank_correlation([1.0, 1.0], [1.0, 2.0], [0, 1]).mean)
    with pytest.raises(InputError, match="one length of at least 1"):
        rank_correlation([1.0], [1.0, 2.0], [0])
    with pytest.raises(InputError, match="drop no image silently"):
        rank_correlation([1.0, math.nan], [1.0, 2.0], [0, 1])
