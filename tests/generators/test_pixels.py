"""The prior of pixels: its map, its range, and the shapes it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ggl.attacks.latents import load_latents
from ggl.base.errors import InputError
from ggl.generators import load_prior
from ggl.generators.contract import check_prior


@given(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40))
def test_a_shape_is_read_and_names_the_prior(channels, height, width):
    prior = load_prior(f"pixels:{channels}x{height}x{width}")
    assert prior.name == f"pixels:{channels}x{height}x{width}"
    assert prior.image_shape == (channels, height, width)
    assert prior.latent_dim == channels * height * width
    assert (prior.num_classes, prior.heldout, prior.latents) == (None, None, "box:2")
    assert list(prior.parameters()) == []


@pytest.mark.parametrize(
    ("z", "pixel"), [(0.0, 0.5), (1.0, 0.75), (-2.0, 0.0), (2.0, 1.0), (-3.0, 0.0), (9.0, 1.0)]
)
def test_pixels_by_hand(z, pixel):
    assert load_prior("pixels:1x1x1").decode(torch.tensor([[z]])).item() == pixel


def test_pixels_are_in_the_order_of_the_image():
    z = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 60)
    images = load_prior("pixels:3x4x5").decode(z)
    assert torch.equal(images[1, 2, 3, 4], 0.5 + 0.25 * z[1, -1])
    assert torch.equal(images.flatten(1), 0.5 + 0.25 * z)


@given(st.floats(0, 1))
def test_every_gray_is_reached_within_its_rule(pixel):
    prior = load_prior("pixels:1x1x1").double()
    z = torch.tensor([[(pixel - 0.5) / 0.25]], dtype=torch.float64)
    placed = load_latents(prior.latents).place(z)
    assert torch.equal(placed, z)
    assert prior.decode(placed).item() == pytest.approx(pixel, abs=1e-15)


def test_its_rule_keeps_the_gradient_of_every_pixel():
    prior = load_prior("pixels:1x4x4")
    z = torch.linspace(-9, 9, 16)[None].requires_grad_()
    prior.decode(load_latents(prior.latents).place(z)).sum().backward()
    assert torch.equal(z.grad.abs(), torch.full_like(z, 0.25))


@pytest.mark.parametrize("shape", ["1x32x32", "3x8x8"])
def test_the_check_of_the_command_line_finds_nothing_in_pixels(shape):
    assert [f for f in check_prior(load_prior(f"pixels:{shape}")) if f.problem] == []


@pytest.mark.parametrize(
    "shape",
    ["32x32", "1x32", "2x32x32", "1x0x32", "1x32x-3", "1x3.5x3", "1X8X8", "1x8x8x8", "a", "1x99999x1"],
)
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError) as error:
        load_prior(f"pixels:{shape}")
    assert str(error.value) == (
        f"prior 'pixels:{shape}': expected CxHxW with 1 or 3 channels, as in pixels:1x32x32; found {shape!r}"
    )


def test_a_shape_is_needed():
    with pytest.raises(InputError, match="prior 'pixels': expected a value of shape after the colon"):
        load_prior("pixels")
