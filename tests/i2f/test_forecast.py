from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev
from torch.nn.functional import cross_entropy

import ggl
from ggl.base.errors import InputError
from ggl.defenses import load_defense
from ggl.generators.base import Prior
from ggl.gradients import GradientOracle
from ggl.i2f.forecast import forecasts, information, posterior_error
from ggl.i2f.influence import influence, influences
from ggl.i2f.perturbations import Draws, perturbations
from ggl.i2f.releases import release_of
from ggl.i2f.surroundings import measure_surroundings

SHAPE, LATENT = (1, 4, 4), 3


class Linear(Prior):
    """Images 1/2 + W z, in double precision."""

    name, licence, latent_dim, image_shape = "linear", "MIT", LATENT, SHAPE

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.register_buffer("w", 0.1 * torch.randn(LATENT, 16, generator=random, dtype=torch.float64))

    def decode(self, z, labels=None):
        return (0.5 + z.double() @ self.w).unflatten(1, SHAPE)


class Classes(Linear):
    num_classes = 2


class Scaled(Linear):
    def sample(self, n, generator):
        return 2 * super().sample(n, generator)


class Tall(Linear):
    image_shape = (1, 8, 2)


def smooth():
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    return nn.Sequential(*layers).double().eval()


def rough():
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    return nn.Sequential(*layers).double().eval()


def private(outside=0.1, seed=5):
    """Return an image `outside` away from the prior's image of a latent, its label, and the latent."""
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(LATENT, generator=random, dtype=torch.float64)
    away = outside * torch.randn(SHAPE, generator=random, dtype=torch.float64)
    return Linear().decode(z[None])[0] + away, torch.tensor(1), z


def made(model, image, label, defense, **draws):
    known = load_defense(defense)
    done = list(perturbations(model, image[None], label[None], known, Draws(**draws)))
    return [release_of(known, one, 0.0) for one in done], done


def around(model, image, label, z, release, step=1e-3):
    return measure_surroundings(GradientOracle(model), Linear(), z, image, label, release.view, step)


def parts_of_gradient(model, image, label):
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p):
        return cross_entropy(functional_call(model, p, (image[None],)), label[None])

    return grad(loss)(parameters)


@pytest.mark.parametrize(
    ("defense", "std"),
    [("noise:0.03", 0.03), ("none", 0.0), ("laplace:0.02", 0.02 * 2**0.5), ("prune:0.7", 0.0)],
)
def test_the_forecast_is_the_posterior_of_the_dense_jacobian(defense, std):
    model, (image, label, z) = smooth(), private()
    (release,), (done,) = made(model, image, label, defense)
    found = posterior_error(around(model, image, label, z, release), release)

    keep = {
        k: (g != 0).double() if "prune" in defense else torch.ones_like(g) for k, g in done.shared.items()
    }
    masked = {k: (done.gradient[k] * keep[k]).flatten() for k in keep}

    def share(latent):
        parts = parts_of_gradient(model, Linear().decode(latent[None])[0], label)
        return {k: (g * keep[k]).flatten() for k, g in parts.items()}

    here, jacobian = share(z), jacrev(share)(z)
    variances = {
        k: std**2 + (masked[k] - here[k]).square().sum() / keep[k].sum() + torch.zeros_like(here[k])
        for k in keep
    }
    # The scale of what is shared is one more unknown, without a prior.
    design = torch.cat([torch.cat([jacobian[k], here[k][:, None]], 1) for k in keep])
    precision = design.T @ (design / torch.cat([variances[k] for k in keep])[:, None])
    precision[:LATENT, :LATENT] += torch.eye(LATENT)
    covariance = torch.linalg.inv(precision)[:LATENT, :LATENT]
    expected = (Linear().w.T @ covariance @ Linear().w).trace() / 16
    assert found == pytest.approx(float(expected), rel=1e-3)


def test_products_by_differences_are_those_of_the_dense_jacobian():
    model, (image, label, z) = smooth(), private()
    (release,), _ = made(model, image, label, "none")
    found = around(model, image, label, z, release, step=1e-4)

    def share(latent):
        parts = parts_of_gradient(model, Linear().decode(latent[None])[0], label)
        return {k: g.flatten() for k, g in parts.items()}

    here, jacobian = share(z), jacrev(share)(z)
    for k, name in enumerate(here):
        torch.testing.assert_close(found.gram[k], jacobian[name].T @ jacobian[name], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.along[k], jacobian[name].T @ here[name], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.spread, Linear().w @ Linear().w.T / 16)
    assert found.foretold.min() > 1 - 1e-6
    assert found.roughness.max() < 1e-12 * found.square.max()
    assert found.ceiling == pytest.approx(float((Linear().decode(z[None])[0] - image).square().mean()))


def test_without_noise_the_forecast_is_the_ceiling_and_with_endless_noise_the_prior():
    model, (image, label, z) = smooth(), private(outside=0.0)
    for defense, left in (("none", 0.0), ("noise:1e-9", 0.0), ("noise:1e9", 1.0)):
        (release,), _ = made(model, image, label, defense)
        found = around(model, image, label, z, release)
        assert found.ceiling < 1e-12
        assert posterior_error(found, release) / found.unknown == pytest.approx(left, abs=1e-4)
    assert found.unknown == pytest.approx(float(Linear().w.square().sum() / 16))


def test_more_noise_never_forecasts_less():
    model, (image, label, z) = smooth(), private()
    (first,), _ = made(model, image, label, "noise:1")
    found = around(model, image, label, z, first)
    scaled = [replace(first, noise_to_scale=s * first.noise_to_scale) for s in (0, 1e-3, 1e-2, 0.1, 1, 10)]
    errors = [posterior_error(found, one) for one in scaled]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]


@pytest.mark.parametrize(
    "defense",
    [
        "noise:0.3",
        "laplace:0.2",
        "clip:0.1+noise:0.05",
        "noise:0.05+clip:2",
        "clip-layer:0.2+noise:0.01",
        "dp-sgd:0.5,0.1",
        "fed-cdp:0.1,0.5",
        "dynamic-dp:fixed,sigma=0.4",
    ],
)
def test_what_is_shared_has_the_size_of_noise_that_the_forecast_takes(defense):
    model, (image, label, _) = smooth(), private()
    releases, done = made(model, image, label, defense, count=100)
    for k, (name, own) in enumerate(done[0].gradient.items()):
        shared = torch.stack([one.shared[name].flatten() for one in done])
        scale = (shared.mean(0) @ own.flatten()) / own.square().sum()
        std = (shared - shared.mean(0)).square().mean().sqrt() * (100 / 99) ** 0.5
        # Five standard deviations of both estimates; that of Laplace noise's std is √2.2 times a normal's.
        noise = float(releases[0].noise_to_scale[k])
        tolerance = 5 * (2.2 / 200 / own.numel()) ** 0.5 + 5 * noise / float(own.norm()) / 100**0.5
        assert float(std / scale) == pytest.approx(noise, rel=0.02 + tolerance)


def test_clipping_with_noise_is_noise_that_is_as_much_larger():
    model, (image, label, z) = smooth(), private()
    norm = float(torch.cat([g.flatten() for g in parts_of_gradient(model, image, label).values()]).norm())
    clipped = made(model, image, label, f"clip:{norm / 4!r}+noise:0.01")[0][0]
    plain = made(model, image, label, "noise:0.04")[0][0]
    found = around(model, image, label, z, plain)
    assert posterior_error(found, clipped) == pytest.approx(posterior_error(found, plain), rel=1e-4)
    alone = made(model, image, label, f"clip:{norm / 4!r}")[0][0]
    assert posterior_error(found, alone) == posterior_error(found, made(model, image, label, "none")[0][0])


def test_scales_by_layer_take_more_away_than_one_for_all():
    model, (image, label, z) = smooth(), private()
    layered = made(model, image, label, "clip-layer:0.01+noise:0.001")[0][0]
    assert layered.layered
    found = around(model, image, label, z, layered)
    one = information(found, replace(layered, layered=False))
    assert torch.linalg.eigvalsh(one - information(found, layered)).min() > -1e-6 * one.trace()
    assert torch.linalg.eigvalsh(information(found, layered)).min() > -1e-6 * one.trace()


def test_layers_that_jump_are_trusted_less():
    model, (image, label, z) = rough(), private()
    (release,), _ = made(model, image, label, "none")
    found = around(model, image, label, z, release, step=0.3)
    assert found.foretold.min() < 0.9
    smoothed = around(smooth(), image, label, z, made(smooth(), image, label, "none")[0][0], step=0.3)
    assert smoothed.foretold.min() > 0.9
    jumpy = replace(found, roughness=10 * found.roughness)
    assert posterior_error(jumpy, release) > posterior_error(found, release)


def test_influence_returns_a_forecast_of_every_image_and_draw():
    model, images = smooth(), torch.stack([private(seed=s)[0] for s in (1, 2)])
    labels = torch.tensor([0, 1])
    found = influence(
        model, images, labels, "noise:0.05", draws=3, damping=1e-6, prior=Linear(), ceiling_budget=40
    )
    forecast = found.forecast
    assert forecast.prior == "linear"
    assert forecast.mse.shape == forecast.rmse.shape == forecast.psnr.shape == (2, 3)
    assert np.allclose(forecast.rmse**2, forecast.posterior + forecast.ceiling[:, None])
    assert np.allclose(forecast.psnr, -20 * np.log10(forecast.rmse))
    assert (forecast.posterior > 0).all()
    assert (forecast.posterior < forecast.unknown[:, None]).all()
    assert influence(model, images, labels, "noise:0.05", damping=1e-6).forecast is None


def test_several_defenses_share_inversions_and_masks_are_each_images_own():
    model, images = smooth(), torch.stack([private(seed=s)[0] for s in (1, 2)])
    labels = torch.tensor([0, 1])
    names = ["none", "noise:0.05", "prune:0.9"]
    given = {"prior": Linear(), "ceiling_budget": 40, "exact": False}
    together = influences(model, images, labels, names, **given)
    for one, name in zip(together, names, strict=True):
        alone = influences(model, images, labels, [name], **given)[0]
        assert np.array_equal(one.forecast.mse, alone.forecast.mse)
    none, noise, prune = (one.forecast.posterior for one in together)
    assert (none < noise).all()
    assert (none < prune).all()


@pytest.mark.parametrize(
    ("defense", "prior", "expected"),
    [
        (
            "sign",
            Linear(),
            "sign: expected, for a forecast with a prior, one that scales, masks or adds noise",
        ),
        ("noise:0.1+qsgd:4", Linear(), "qsgd"),
        ("prune:0.5+noise:0.1", Linear(), "masks after noise"),
        ("top-k:0.1+dp-sgd:1,1", Linear(), "masks after noise"),
        ("orthogonal", Linear(), "orthogonal"),
        ("outpost", Linear(), "outpost"),
        ("none", ggl.load_prior("pixels:1x4x4"), "leave the prior out"),
        ("none", Tall(), r"expected images of its shape \(1, 8, 2\), found \(1, 4, 4\)"),
        ("none", Scaled(), "standard normal latents"),
        ("none", Classes(), "has the labels 0 to 1, found 2"),
    ],
)
def test_what_has_no_forecast_is_refused_in_a_line(defense, prior, expected):
    images, labels = torch.rand(2, *SHAPE, dtype=torch.float64), torch.tensor([1, 2])
    with pytest.raises(InputError, match=expected) as refused:
        influence(smooth(), images, labels, defense, prior=prior, ceiling_budget=20)
    assert "\n" not in str(refused.value)


def test_a_victim_that_mixes_or_samples_is_refused_before_anything_is_inverted(monkeypatch):
    monkeypatch.setattr("ggl.i2f.forecast.invert", None)
    mixing = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3)).double().train()
    for model in (mixing, nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(16, 3)).double().train()):
        with pytest.raises(InputError, match="call eval"):
            influence(model, torch.rand(1, *SHAPE).double(), torch.tensor([1]), "none", prior=Linear())


@pytest.mark.slow("searches of a prior")
def test_of_a_smooth_victim_it_forecasts_what_a_search_finds():
    data, prior = ggl.load_dataset("fashion-mnist-heldout"), ggl.load_prior("fashion-dcgan32")
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    images, labels = data.images[200:204], data.labels[200:204]
    for defense in ("none", "noise:0.2"):
        known = load_defense(defense)
        forecast = forecasts(
            victim, images, labels, [known], Draws(), prior, ceiling_budget=300, progress=lambda *_: None
        )[0]
        shared = [one.shared for one in perturbations(victim, images, labels, known)]
        found = ggl.attack_many(
            GradientOracle(victim),
            [
                ggl.Target(str(i), g, label[None])
                for i, (g, label) in enumerate(zip(shared, labels, strict=True))
            ],
            prior=prior,
            budget=400,
        )
        errors = [float((r.images[0] - x).square().mean()) for r, x in zip(found, images, strict=True)]
        assert 0.6 < np.median(forecast.rmse[:, 0] / np.sqrt(errors)) < 1.4
