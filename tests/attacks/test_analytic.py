"""The closed-form attack on a first linear layer."""

import pytest
import torch

from ggl import GradientOracle, load_dataset, load_defense, load_victim
from ggl.attacks.analytic import find_first_linear, first_linear_fits
from ggl.defenses import Client

SHAPE = (1, 32, 32)


def victim(name):
    return load_victim(name, in_channels=1, num_classes=10, image_size=32, seed=0)


def solve(name, defense="none", i=0):
    data = load_dataset("fashion-mnist-heldout")
    image, label = data.images[i : i + 1], data.labels[i : i + 1]
    client = Client(GradientOracle(victim(name)), image, label)
    shared = load_defense(defense).share(client, torch.Generator().manual_seed(i))
    layer = find_first_linear(client.model, SHAPE)
    return first_linear_fits(shared, layer, SHAPE)[0], image[0]


@pytest.mark.parametrize(
    ("name", "layer"), [("mlp", "body.1"), ("lenet", None), ("convnet", None), ("vit", None)]
)
def test_the_layer_that_reads_the_image_is_found(name, layer):
    assert find_first_linear(victim(name), SHAPE) == layer


def test_a_layer_without_bias_or_behind_a_normalization_is_not():
    linear = torch.nn.Linear(1024, 4)
    without = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 4, bias=False))
    behind = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LayerNorm(1024), linear)
    assert find_first_linear(without, SHAPE) is None
    assert find_first_linear(behind, SHAPE) is None


@pytest.mark.parametrize("i", range(0, 1000, 100))
def test_a_clean_gradient_is_the_image(i):
    found, image = solve("mlp", i=i)
    assert (found - image).norm() <= 1e-4 * image.norm()


def test_a_layer_that_is_frozen_is_not():
    frozen = victim("mlp")
    frozen.body[1].requires_grad_(False)
    assert find_first_linear(frozen, SHAPE) is None


@pytest.mark.parametrize("i", [0, 300])
def test_every_fit_of_a_clean_gradient_is_the_image(i):
    """The last one up to its scale: its brightest pixel is 1."""
    data = load_dataset("fashion-mnist-heldout")
    image = data.images[i]
    shared = GradientOracle(victim("mlp")).observe(image[None], data.labels[i : i + 1])
    *exact, scaled = first_linear_fits(shared, "body.1", SHAPE)
    for found in exact:
        torch.testing.assert_close(found, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled, image / image.max(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("defense", "best"), [("prune:0.9", 0), ("qsgd:4", 1), ("noise:0.01", 2), ("clip-layer:0.01", 2)]
)
def test_each_fit_is_best_where_it_should_be(defense, best):
    """Mean squared error over ten images, one a class."""
    data = load_dataset("fashion-mnist-heldout")
    errors = torch.zeros(3)
    for i in range(0, 1000, 100):
        client = Client(GradientOracle(victim("mlp")), data.images[i][None], data.labels[i][None])
        shared = load_defense(defense).share(client, torch.Generator().manual_seed(i))
        fits = first_linear_fits(shared, "body.1", SHAPE)
        errors += (fits - data.images[i]).square().flatten(1).mean(1)
    assert errors.argmin() == best


@pytest.mark.parametrize("defense", ["clip:0.1", "prune:0.9", "clip:0.1+prune:0.5"])
def test_clipping_and_pruning_do_not_hide_it(defense):
    """Wherever a row kept a pixel's coordinate; a pixel that was pruned in every row reads as black."""
    found, image = solve("mlp", defense)
    seen = found > 0
    assert seen.sum() > 0.25 * (image > 0).sum()
    torch.testing.assert_close(found[seen], image[seen], rtol=1e-4, atol=1e-5)


def test_noise_is_averaged_over_the_rows():
    """The published attack divides the row of largest bias by it; the fit uses all fifty."""
    bias = torch.linspace(-2, 2, 50)
    clean = {"l.weight": (bias * 0.5)[:, None].repeat(1, 16), "l.bias": bias}
    noisy = load_defense("noise:0.05").protect(clean, torch.Generator().manual_seed(1))
    fitted = first_linear_fits(noisy, "l", (1, 4, 4))[1]
    row = noisy["l.bias"].abs().argmax()
    single = noisy["l.weight"][row] / noisy["l.bias"][row]
    assert (fitted - 0.5).norm() < 0.5 * (single - 0.5).norm()


def test_a_gradient_of_zeros_gives_a_black_image():
    zeros = {"l.weight": torch.zeros(3, 4), "l.bias": torch.zeros(3)}
    assert not first_linear_fits(zeros, "l", (1, 2, 2))[:2].any()
