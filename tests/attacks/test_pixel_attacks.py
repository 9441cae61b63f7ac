"""The contrasts on pixels: settings that load, and attacks that do what their papers report."""

import math

import pytest
import torch

from ggl.attacks.inversion import attack
from ggl.attacks.latents import load_latents
from ggl.attacks.pixel_attacks import CONTRASTS, Contrast, find_contrast
from ggl.generators import load_prior
from ggl.gradients import GradientOracle
from ggl.gradients.distance import find_distance
from ggl.optimizers import load_strategy, strategies
from ggl.victims import load_victim

each = pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=list(CONTRASTS))


@each
def test_its_settings_load(contrast):
    strategy = load_strategy(contrast.strategy, latent_dim=12, budget=100, seed=0)
    assert strategy.needs_gradient
    assert strategy.batch_size == 1
    find_distance(contrast.distance)
    assert load_latents(contrast.latents).place(torch.full((1, 3), 7.0)).abs().max() <= 2
    assert contrast.labels in ("known", "inferred", "soft")
    assert find_contrast(contrast.name) is contrast


@pytest.mark.parametrize("name", ["cma-es", "l-bfgs", "", "DLG", "ig:restarts=2"])
def test_what_is_no_contrast_is_none(name):
    assert find_contrast(name) is None


def test_no_contrast_has_a_strategys_name():
    assert not CONTRASTS.keys() & set(strategies.names())


def test_a_contrast_cannot_be_changed():
    with pytest.raises(AttributeError):
        CONTRASTS["ig"].distance = "l2"
    assert Contrast("a", "random", "l2", "free", "known").name == "a"


def decibels_of(contrast, budget):
    """Return the PSNR of a smooth image attacked through a LeNet, its label known."""
    victim = load_victim("lenet", in_channels=1, num_classes=4, image_size=8, seed=0)
    # The difference of gradients is taken directly: moments in float32 end at a relative 1e-6.
    oracle = GradientOracle(victim, backend="vmap")
    grid, label = torch.linspace(0, 1, 8), torch.tensor([3])
    image = (grid[:, None] - grid).abs()[None, None]
    result = attack(
        oracle,
        oracle.observe(image, label),
        label,
        prior=load_prior("pixels:1x8x8"),
        strategy=contrast.strategy,
        distance=contrast.distance,
        latents=contrast.latents,
        budget=budget,
    )
    return -10 * math.log10((result.images - image).square().mean().item())


@pytest.mark.slow("a long search of pixels")
@pytest.mark.parametrize(("name", "budget", "bound"), [("idlg", 100, 30), ("ig", 250, 20)])
def test_an_undefended_image_is_recovered(name, budget, bound):
    assert decibels_of(CONTRASTS[name], budget) > bound
