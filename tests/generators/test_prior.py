"""What every registered prior keeps to, and the embedded one's own weights."""

import shutil
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import test_biggan
import test_dcgan_checkpoint
import test_flow
import test_stylegan2_prior
import test_wgan_gp
import torch

from ggl.attacks.latents import load_latents
from ggl.base.errors import InputError, WeightsError
from ggl.base.weight_files import WeightFiles, weight_catalog
from ggl.base.weights import load_tensors
from ggl.generators import Prior, load_prior, priors, register_prior
from ggl.generators.bundled.recipes import RECIPES
from ggl.generators.contract import check_prior
from ggl.generators.stages import StagedPrior

FEATURES = "space=features"
TINY = {
    "biggan-deep": test_biggan.make_tiny,
    "biggan-deep, class": lambda folder: test_biggan.make_tiny(folder, "size=64,search=class"),
    "dcgan": test_dcgan_checkpoint.make_tiny,
    "flow": test_flow.make_tiny,
    "flow, pixels": test_flow.make_pixels,
    "pixels": lambda folder: "pixels:3x8x8",
    "stylegan2": lambda folder: test_stylegan2_prior.make_tiny(folder, suffix=".pkl"),
    "stylegan2, classes": lambda folder: test_stylegan2_prior.make_tiny(folder, classes=3),
    "stylegan2, w": lambda folder: test_stylegan2_prior.make_tiny(folder, "space=w,truncation=0.7"),
    "stylegan2, w+": lambda folder: test_stylegan2_prior.make_tiny(folder, "space=w+,layers=2,size=16"),
    "stylegan2, rosinality": lambda folder: test_stylegan2_prior.make_tiny(folder, suffix=".pt"),
    "wgan-gp": test_wgan_gp.make_tiny,
    "features, fashion-dcgan32": lambda folder: f"fashion-dcgan32:{FEATURES},stage=2,dims=16",
    "features, around": lambda folder: f"fashion-dcgan32:{FEATURES},stage=3,dims=8,around=0.5",
    "features, biggan-deep": lambda folder: f"{test_biggan.make_tiny(folder)},{FEATURES},stage=5,dims=4",
    "features, dcgan": lambda folder: f"{test_dcgan_checkpoint.make_tiny(folder)},{FEATURES},stage=1,dims=6",
    "features, stylegan2": lambda folder: (
        f"{test_stylegan2_prior.make_tiny(folder, classes=3)},{FEATURES},stage=2,dims=8"
    ),
    "features, wgan-gp": lambda folder: f"{test_wgan_gp.make_tiny(folder)},{FEATURES},stage=2,dims=6",
}
"""Priors of files: small random ones, written by the test; one of a shape; features of these."""

OPTIONAL = {"mobilestylegan-ffhq": "mobilestylegan-ffhq:size=32", "digiface-dcgan64": "digiface-dcgan64"}
"""Priors of fetched weights, by their entries of the catalog."""

ELSEWHERE = {"pretrained-gan"}
"""Of a library that is not on the package index: test_pretrained_gans.py runs the contract on a stand-in."""

NAMES = sorted({*TINY, *priors.names()} - ELSEWHERE)
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def specifications(tmp_path_factory):
    """Return what loads the prior of a name, with a folder of its own for its file."""

    @cache
    def specification(name):
        if name in OPTIONAL and not weight_catalog[name].is_here:
            pytest.skip(f"needs ggl weights fetch {name}")
        if "biggan-deep" in name:
            pytest.importorskip("pytorch_pretrained_biggan")
        if name in TINY:
            return TINY[name](tmp_path_factory.mktemp("prior"))
        return OPTIONAL.get(name, name)

    return specification


@pytest.fixture(scope="module")
def loaded(specifications):
    return cache(lambda name: load_prior(specifications(name)))


@pytest.fixture
def fresh(specifications, name):
    """The prior, loaded for one test, which may change it."""
    return load_prior(specifications(name))


@pytest.fixture
def prior(loaded, name):
    return loaded(name)


def draw(prior, n=6, seed=0):
    """Return latents (n, d) and labels (n,), or None for a prior without classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % prior.num_classes if prior.num_classes else None
    return prior.sample(n, generator), labels


class Plain(Prior):
    """A prior without classes, for what the base class does."""

    name, licence, latent_dim, image_shape = "plain", "MIT", 5, (1, 1, 5)

    def decode(self, z, labels=None):
        self.check_labels(labels)
        return z.sigmoid().unflatten(1, self.image_shape)


@every
def test_it_describes_itself(prior):
    assert prior.licence
    assert prior.latent_dim > 0
    assert len(prior.image_shape) == 3
    assert not prior.training


@every
def test_the_name_is_the_specification_that_loads_it_again(prior, specifications, name):
    assert prior.name == specifications(name)


@every
def test_its_rule_for_latents_is_one(prior):
    assert load_latents(prior.latents).name == prior.latents


@every
def test_images_have_the_stated_shape_and_range(prior):
    images = prior.decode(*draw(prior, 16))
    assert images.shape == (16, *prior.image_shape)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1


@every
def test_the_range_holds_for_latents_no_prior_draws(prior):
    _, labels = draw(prior, 4)
    images = prior.decode(torch.full((4, prior.latent_dim), 50.0), labels)
    assert 0 <= images.min() <= images.max() <= 1


@every
def test_the_same_latents_give_the_same_images(prior):
    z, labels = draw(prior)
    assert torch.equal(prior.decode(z, labels), prior.decode(z, labels))


@every
def test_an_image_does_not_depend_on_its_neighbors(prior):
    z, labels = draw(prior, 20)
    together = prior.decode(z, labels)
    for i in (0, 7, 19):
        alone = prior.decode(z[i : i + 1], None if labels is None else labels[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


@every
def test_other_latents_give_other_images(prior):
    z, labels = draw(prior, 2)
    images = prior.decode(z, None if labels is None else labels[[0, 0]])
    assert (images[0] - images[1]).abs().max() > 0.05


@every
def test_other_labels_give_other_images(prior):
    if prior.num_classes is None:
        pytest.skip("no classes")
    z = draw(prior, 1)[0].expand(prior.num_classes, -1)
    images = prior.decode(z, torch.arange(prior.num_classes)).flatten(1)
    assert torch.pdist(images).min() > 0.5


@every
def test_decoding_leaves_its_arguments_as_they_were(prior):
    z, labels = draw(prior)
    prior.decode(z, labels)
    again = draw(prior)
    assert torch.equal(z, again[0])
    assert labels is None or torch.equal(labels, again[1])


@every
def test_images_are_differentiable_in_the_latents_and_in_nothing_else(prior):
    z, labels = draw(prior, 3)
    prior.decode(z.requires_grad_(), labels).sum().backward()
    assert z.grad.isfinite().all()
    assert (z.grad.abs().sum(1) > 0).all()
    assert not any(p.requires_grad or p.grad is not None for p in prior.parameters())


@every
def test_the_gradient_is_that_of_finite_differences(fresh):
    prior = fresh.double()
    z, labels = draw(prior, 2)
    z = z.double().requires_grad_()
    weights = torch.linspace(-1, 1, prior.decode(z, labels).numel(), dtype=torch.float64)

    def total(z):
        return (prior.decode(z, labels).flatten() * weights).sum()

    (slope,) = torch.autograd.grad(total(z), z)
    step = 1e-7 * torch.ones_like(z)
    found = (total(z + step) - total(z - step)) / 2e-7
    torch.testing.assert_close(found, slope.sum(), rtol=1e-4, atol=1e-4)


@every
def test_the_dtype_is_kept(fresh):
    prior = fresh.double()
    z, labels = draw(prior, 2)
    assert prior.decode(z.double(), labels).dtype == torch.float64
    assert prior.penalty(z.double()).dtype == torch.float64


@every
def test_the_device_is_kept(fresh):
    prior = fresh
    for part in prior.modules():
        part.check_labels = lambda labels: None
    z, labels = (None if x is None else x.to("meta") for x in draw(prior, 2))
    assert prior.to("meta").decode(z, labels).device.type == "meta"
    assert prior.penalty(z).device.type == "meta"


@every
def test_samples_come_from_the_given_generator_alone(prior):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    z = prior.sample(5, torch.Generator().manual_seed(3))
    assert z.shape == (5, prior.latent_dim)
    assert z.dtype == torch.float32
    assert torch.equal(z, prior.sample(5, torch.Generator().manual_seed(3)))
    assert not torch.equal(z, prior.sample(5, torch.Generator().manual_seed(4)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@every
def test_sampling_advances_its_generator(prior):
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(prior.sample(2, generator), prior.sample(2, generator))


@every
def test_the_penalty_has_mean_zero_over_the_prior(prior):
    """Bounded by five standard errors, the standard deviation being the sample's own."""
    penalty = prior.penalty(prior.sample(20_000, torch.Generator().manual_seed(0)))
    assert penalty.shape == (20_000,)
    assert penalty.mean().abs() < 5 * penalty.std() / 20_000**0.5


@every
def test_the_penalty_grows_away_from_the_prior(prior):
    z, _ = draw(prior)
    assert (prior.penalty(3 * z) > prior.penalty(z)).all()


@pytest.mark.parametrize(("z", "penalty"), [([0.0] * 5, 1.5), ([1.0] * 5, -1.0), ([3.0, 1, 1, 1, 1], 5.4)])
def test_the_penalty_by_hand(z, penalty):
    """(‖z‖² - 5)² / 10 - 1."""
    assert Plain().penalty(torch.tensor([z])).item() == pytest.approx(penalty)


@pytest.mark.parametrize("dim", [1, 2, 64, 512])
def test_the_penalty_has_mean_zero_in_every_dimension(dim):
    """‖z‖² is chi-squared with variance 2d; the bound is five standard errors of this sample."""
    z = torch.randn(20_000, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    penalty = Plain().penalty(z)
    assert penalty.mean().abs() < 5 * penalty.std() / 20_000**0.5


@every
def test_labels_are_needed_and_checked(prior):
    if prior.num_classes is None:
        pytest.skip("no classes")
    z, _ = draw(prior, 2)
    with pytest.raises(InputError, match="class-conditional: expected labels, found none"):
        prior.decode(z)
    for wrong in (-1, prior.num_classes):
        with pytest.raises(InputError, match=f"labels 0 to {prior.num_classes - 1}, found {wrong}"):
            prior.decode(z, torch.tensor([0, wrong]))


def test_a_prior_without_classes_ignores_labels():
    z, _ = draw(Plain(), 2)
    assert torch.equal(Plain().decode(z, torch.tensor([5, -7])), Plain().decode(z))


@every
def test_loading_leaves_global_random_states_alone(specifications, name):
    specification = specifications(name)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_prior(specification)
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[0])


@every
def test_loading_twice_gives_the_same_images(prior, fresh):
    z, labels = draw(prior)
    assert torch.equal(fresh.decode(z, labels), prior.decode(z, labels))


@every
def test_the_check_of_the_command_line_finds_nothing(prior):
    assert [finding for finding in check_prior(prior) if finding.problem] == []


@every
def test_stages_make_the_same_images(prior):
    if not isinstance(prior, StagedPrior):
        pytest.skip("names no stages")
    z, labels = draw(prior, 2)
    images, last = prior.decode(z, labels), len(prior.stages)
    for stage in sorted({1, (last + 1) // 2, last}):
        a = prior.features(z, labels, stage)
        assert a.shape == (2, prior.stages[stage - 1].size)
        assert torch.equal(prior.finish(a, z, labels, stage), images)


def test_a_superfluous_parameter_is_refused():
    with pytest.raises(InputError, match="expected nothing after the name"):
        load_prior("fashion-dcgan32:other")


@pytest.fixture
def registered(monkeypatch):
    """Register factories for one test."""
    monkeypatch.setattr(priors, "_entries", dict(priors._entries))
    return register_prior


def test_what_is_no_prior_is_refused(registered):
    registered("test-wrong")(lambda: SimpleNamespace(latent_dim=3))
    with pytest.raises(InputError, match="found SimpleNamespace without image_shape, decode"):
        load_prior("test-wrong")


class Quacks(torch.nn.Module):
    """No `Prior`, but everything that one needs."""

    latent_dim, image_shape, num_classes, latents = 5, [1, 1, 5], 3, "free"

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, 5)

    def decode(self, z, labels):
        return (self.layer(z) + labels[:, None]).sigmoid().unflatten(1, (1, 1, 5))


def test_what_has_the_parts_of_a_prior_is_taken_as_one(registered):
    registered("test-duck")(Quacks)
    prior = load_prior("test-duck")
    assert (prior.name, prior.num_classes, prior.latents) == ("test-duck", 3, "free")
    assert [f for f in check_prior(prior) if f.problem] == []
    assert not prior.training
    assert prior.to(torch.float64).found.layer.weight.dtype == torch.float64


@pytest.mark.parametrize("parts", [{"latent_dim": None}, {"image_shape": 5}, {"image_shape": (1, 2)}])
def test_parts_of_another_kind_are_refused(registered, parts):
    registered("test-odd")(type("Odd", (Quacks,), parts))
    with pytest.raises(InputError, match="expected latent_dim as a number and image_shape as three"):
        load_prior("test-odd")


def test_its_own_samples_and_penalty_are_used(registered):
    class Uniform(Quacks):
        def sample(self, n, generator):
            return torch.rand(n, 5, generator=generator)

        def penalty(self, z):
            return z.sum(1) - 2.5

    registered("test-uniform")(Uniform)
    prior = load_prior("test-uniform")
    assert prior.sample(50, torch.Generator().manual_seed(0)).min() > 0
    assert prior.penalty(torch.ones(1, 5)).item() == 2.5


def test_the_users_own_prior_is_loaded_with_its_options(registered):
    class Sized(Plain):
        def __init__(self, size: int, *, depth: int = 1) -> None:
            super().__init__()
            self.latent_dim, self.depth = size, depth

    registered("test-sized")(Sized)
    assert load_prior("test-sized:7").latent_dim == 7
    assert load_prior("test-sized:7,depth=2").depth == 2
    with pytest.raises(InputError, match="expected a value of size after the colon"):
        load_prior("test-sized")
    with pytest.raises(InputError, match="did you mean 'depth'"):
        load_prior("test-sized:7,dept=2")


@pytest.fixture
def asset(tmp_path, monkeypatch):
    """A copy of the embedded weights, which the prior is made to read."""
    path = weight_catalog["fashion-dcgan32"].folder / "fashion-dcgan32.safetensors"
    monkeypatch.setattr(WeightFiles, "folder", tmp_path)
    return shutil.copyfile(path, tmp_path / path.name)


def test_the_copied_weights_load(asset):
    assert load_prior("fashion-dcgan32").name == "fashion-dcgan32"


@pytest.mark.parametrize(
    "change", [lambda c: c[: len(c) // 2], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b""]
)
def test_weights_altered_or_cut_short_are_refused(asset, change):
    asset.write_bytes(change(asset.read_bytes()))
    with pytest.raises(WeightsError, match="cut short or altered"):
        load_prior("fashion-dcgan32")


def test_missing_weights_are_refused(asset):
    asset.unlink()
    with pytest.raises(WeightsError, match="not at hand"):
        load_prior("fashion-dcgan32")


BUNDLED = pytest.mark.parametrize("name", RECIPES)


def weights_of(name):
    return weight_catalog[name].folder / f"{name}.safetensors"


@BUNDLED
def test_folding_the_normalization_changes_no_image(prior, name):
    weights = load_tensors(weights_of(name))
    unfolded = RECIPES[name].generator().eval()
    unfolded.load_state_dict(
        {key: value.to(unfolded.state_dict()[key].dtype) for key, value in weights.items()}
    )
    z, labels = draw(prior, 30)
    with torch.no_grad():
        torch.testing.assert_close(prior.decode(z, labels), (unfolded(z, labels) + 1) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "most"), [("fashion-dcgan32", 2e6), ("fashion-flow32", 3e6), ("cifar10-gan32", 8e6)]
)
def test_bundled_weights_are_small(name, most):
    assert weights_of(name).stat().st_size <= most
